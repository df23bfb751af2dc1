package cluster

// SpoolBytes returns how much each primary of the group may keep on disk of what waits to be sent, in bytes; 0 for nothing. It is
// a matter of the primary alone, nobody else can tell: so the default holds for groups from before there were spools, too.
func (g *Group) SpoolBytes() int64 {
	switch {
	case g.Spool == 0:
		return DefaultSpool
	case g.Spool < 0:
		return 0
	}
	return g.Spool
}
