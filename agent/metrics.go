package agent

import (
	"net/http"
	"strconv"
	"time"

	"flotilla/agent/api"
	"flotilla/agent/core"
	"flotilla/agent/peers"
	"flotilla/agent/primary"
	"flotilla/nbd"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// collector turns the status, the events and the figures of the transport and of the NBD server into metrics whenever they
// are asked for.
type collector struct {
	status func() (*api.Status, bool) // and whether this agent is the captain
	events *eventLog
	holds  *holdLog
	peers  func() peers.Stats
	nbd    func() nbd.Stats
	expiry func() time.Time      // of this agent's certificate
	source func() primary.Status // nil without the role

	view, members, captain, eventCount       *prometheus.Desc
	set, rpo, queued, copyLeft, hold         *prometheus.Desc
	written, folded, compressed, sent        *prometheus.Desc
	spooled, spoolFull, spoolUsed            *prometheus.Desc
	journalUsed, journalLimit, updates       *prometheus.Desc
	share, taken, waiting, unheld            *prometheus.Desc
	peerSent, peerReceived, peerConnected    *prometheus.Desc
	nbdConnections, nbdAnswered, nbdBuffered *prometheus.Desc
	copyRead, copyHoles, copyRate            *prometheus.Desc
	certificate, degraded                    *prometheus.Desc
}

func newCollector(status func() (*api.Status, bool), events *eventLog, holds *holdLog, peers func() peers.Stats, nbd func() nbd.Stats, expiry func() time.Time, source func() primary.Status) *collector {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("flotilla_"+name, help, labels, nil)
	}
	return &collector{
		status: status, events: events, holds: holds, peers: peers, nbd: nbd, expiry: expiry, source: source,
		view:       d("view", "Number of the membership."),
		members:    d("members", "Backup components in the view."),
		captain:    d("captain", "1 on the agent that is the captain."),
		eventCount: d("events_total", "Events since the agent's start.", "event"),
		set:        d("group_set", "Sets of a group by how far they are.", "group", "stage"),
		rpo:        d("group_rpo_seconds", "Age of the newest recovery point.", "group"),
		degraded:   d("group_degraded", "1 while a sync group is degraded: what it acknowledges, or has acknowledged, may not be held.", "group"),
		queued:     d("source_queued_bytes", "What a primary holds that is not yet held by components; on the captain.", "group", "agent"),
		spooled:    d("source_spooled_bytes", "Of these, what lies in the primary's spool; on the captain.", "group", "agent"),
		spoolFull:  d("source_full_seconds", "While a queue is too long and grows: when its spool, or without one the queue, will be full; on the captain.", "group", "agent"),
		spoolUsed:  d("spool_used_bytes", "Disk space that the spools of this primary take."),
		copyLeft:   d("source_copy_left_bytes", "What a primary still has to copy; on the captain.", "group", "agent"),
		written:    d("source_written_bytes_total", "Data of updates that a primary numbered, copies included, since its start; on the captain.", "group", "agent"),
		folded:     d("source_folded_bytes_total", "Of these, what was superseded in its set before it was sent, and never is; on the captain.", "group", "agent"),
		compressed: d("source_compressed_bytes_total", "What compression saved of what was sent; on the captain.", "group", "agent"),
		sent:       d("source_sent_bytes_total", "Frames of updates that a primary sent, those sent again included; on the captain.", "group", "agent"),
		hold:       d("cut_hold_seconds", "How long this primary stood still for cuts.", "group"),

		journalUsed:  d("journal_used_bytes", "Space that a component's journal takes; on the captain.", "agent"),
		journalLimit: d("journal_limit_bytes", "Space that a component's journal may take; on the captain.", "agent"),
		updates:      d("component_updates", "Unapplied updates that a component holds; on the captain.", "agent", "as"),
		share:        d("component_share_percent", "Of all portions, those that a component owns.", "agent"),
		taken:        d("component_taken_bytes_per_second", "What a component takes; on the captain.", "agent", "as"),
		waiting:      d("component_waiting_bytes", "What waits for a component's journal on average; on the captain.", "agent"),
		unheld:       d("component_unheld_updates", "Updates that a component owns and that are not yet held; on the captain.", "agent"),

		peerSent:     d("peer_sent_bytes_total", "Bytes sent to another agent since the start, above TLS; of kind data: updates, compressed.", "peer", "kind"),
		peerReceived: d("peer_received_bytes_total", "Bytes received from another agent since the start, above TLS.", "peer", "kind"),

		peerConnected: d("peer_connected", "1 for each open connection to another agent, by the address at which it was reached.", "peer", "kind", "address"),

		nbdConnections: d("nbd_connections", "Open NBD connections."),
		nbdAnswered:    d("nbd_requests_total", "NBD requests answered."),
		nbdBuffered:    d("nbd_buffer_bytes", "Memory of NBD payloads in use."),

		copyRead:  d("copy_read_bytes_total", "Bytes that copies have read of a source since it was opened.", "volume"),
		copyHoles: d("copy_hole_bytes_total", "Bytes that copies have not read of a source, because they have no storage, since it was opened.", "volume"),
		copyRate:  d("copy_bytes_per_second", "How fast the copy of a volume goes on.", "volume"),

		certificate: d("certificate_expiry_timestamp_seconds", "When this agent's certificate runs out, in seconds since 1970."),
	}
}

// newMetricsHandler serves a registry of the agent's own.
func newMetricsHandler(c *collector) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(c, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.view, c.members, c.captain, c.eventCount, c.set, c.rpo, c.queued, c.spooled, c.spoolFull, c.spoolUsed, c.copyLeft, c.written, c.folded, c.compressed, c.sent, c.hold,
		c.journalUsed, c.journalLimit, c.updates, c.share, c.taken, c.waiting, c.unheld, c.peerSent, c.peerReceived, c.peerConnected, c.nbdConnections, c.nbdAnswered, c.nbdBuffered,
		c.copyRead, c.copyHoles, c.copyRate, c.certificate, c.degraded,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	s, captain := c.status()
	gauge(c.view, float64(s.View))
	members := 0
	for i := range s.Components {
		m := &s.Components[i]
		if m.Member {
			members++
			gauge(c.share, m.SharePercent, m.Agent)
		}
		if captain {
			gauge(c.journalUsed, float64(m.JournalUsed), m.Agent)
			gauge(c.journalLimit, float64(m.JournalLimit), m.Agent)
			gauge(c.updates, float64(m.OwnedUpdates), m.Agent, "owner")
			gauge(c.updates, float64(m.MirroredUpdates), m.Agent, "mirror")
			gauge(c.taken, m.OwnedRate, m.Agent, "owner")
			gauge(c.taken, m.MirroredRate, m.Agent, "mirror")
			gauge(c.waiting, float64(m.WaitingBytes), m.Agent)
			gauge(c.unheld, float64(m.UnheldUpdates), m.Agent)
		}
	}
	gauge(c.members, float64(members))
	gauge(c.captain, map[bool]float64{true: 1}[captain])
	groups := map[uint32]string{}
	for i := range s.Groups {
		g := &s.Groups[i]
		groups[g.ID] = g.Name
		gauge(c.set, float64(g.Granted), g.Name, "granted")
		gauge(c.set, float64(g.Committed), g.Name, "committed")
		gauge(c.set, float64(g.Applying), g.Name, "applying")
		gauge(c.set, float64(g.Applied), g.Name, "applied")
		gauge(c.degraded, map[bool]float64{true: 1}[g.Promote == nil && g.Degraded != nil && g.Degraded.Phase != "asked"], g.Name)
		if g.RPOSeconds != nil {
			gauge(c.rpo, *g.RPOSeconds, g.Name)
		}
		for j := range g.Primaries {
			if p := &g.Primaries[j]; p.Known {
				gauge(c.queued, float64(p.Queued), g.Name, p.Agent)
				spooled := int64(0)
				if o := p.Overload; o != nil {
					spooled = o.Spooled
					if o.FullSeconds != nil {
						gauge(c.spoolFull, *o.FullSeconds, g.Name, p.Agent)
					}
				}
				gauge(c.spooled, float64(spooled), g.Name, p.Agent)
				gauge(c.copyLeft, float64(p.CopyLeft), g.Name, p.Agent)
				counter(c.written, float64(p.Written), g.Name, p.Agent)
				counter(c.folded, float64(p.Folded), g.Name, p.Agent)
				counter(c.compressed, float64(p.Compressed), g.Name, p.Agent)
				counter(c.sent, float64(p.Sent), g.Name, p.Agent)
			}
		}
	}
	for id, h := range c.holds.counts() {
		if name, ok := groups[uint32(id)]; ok { // otherwise it was deleted
			ch <- prometheus.MustNewConstHistogram(c.hold, h.count, h.seconds, h.upTo(), name)
		}
	}
	c.events.eachCount(func(name string, n uint64) { counter(c.eventCount, float64(n), name) })
	names := map[uint64]string{}
	for _, a := range s.Agents {
		names[a.ID] = a.Name
	}
	for _, l := range c.peers().Lanes {
		peer := names[uint64(l.Peer)]
		if peer == "" {
			peer = strconv.FormatUint(uint64(l.Peer), 10)
		}
		counter(c.peerSent, float64(l.Sent), peer, l.Kind.String())
		counter(c.peerReceived, float64(l.Received), peer, l.Kind.String())
		if l.Connected && l.Address != "" {
			gauge(c.peerConnected, 1, peer, l.Kind.String(), l.Address)
		}
	}
	n := c.nbd()
	gauge(c.nbdConnections, float64(n.Connections))
	counter(c.nbdAnswered, float64(n.Answered))
	gauge(c.nbdBuffered, float64(n.BufferBytes))
	if c.source != nil {
		source := c.source()
		gauge(c.spoolUsed, float64(source.Spool))
		for _, g := range source.Groups {
			for _, v := range g.Volumes {
				if v.Open {
					counter(c.copyRead, float64(v.Read), v.Name)
					counter(c.copyHoles, float64(v.Zeroed), v.Name)
					gauge(c.copyRate, v.Rate, v.Name)
				}
			}
		}
	}
	gauge(c.certificate, float64(c.expiry().Unix()))
}

// statusNow is the collector's source of the status.
func (s *apiServer) statusNow() (status *api.Status, captain bool) {
	elected := s.events.electedAt()
	s.loop.View(func(n *core.Node) { status = statusOf(n, elected) })
	return status, status.Complete
}
