package sim

import (
	"fmt"
	"strings"
	"time"
)

// Stats says what a run did.
type Stats struct {
	Events, Writes, Sets, Checks, Points       int
	Kills, Losses, Left, GiveUps, Seals, Voids int
	Promotes, Resyncs, Copies, PowerCuts       int
	Kept, Resumed, Interrupted                 int // extents that were noted as kept of a resync, that were not copied again for it; resyncs ended early
	Folded                                     int // updates that were superseded before they were sent
	Spilled, SpoolsLost                        int // payloads that primaries wrote to their spools, and that could not be read back
	JournalsLost, SourceErrors, TargetErrors   int
	Torn, Copied                               int // sectors of bits torn in power cuts; extents copied
	ChecksEnded, ChecksStopped                 int // parts of primaries in checks; checks that took too long for the operator
	Compared, Differed                         int // pieces found the same, and to differ
	Mended, Unanswered, Flips, Recopies        int // pieces that were repaired, and that nobody answered for; bits flipped; copies to other targets
	LateChecks, GrowCuts                       int // requests of checks that came while their share was written or later; power cuts of growing volumes
	Abandoned, InPlace, RoomMade               int // chains given up for want of room; resyncs that the operator let be applied in place; larger journals
	Grown                                      int // volumes that have grown
	Degraded, Again, Early                     int // sync groups that degraded, and that were synchronous again; writes acknowledged meanwhile
	Excused                                    int // runs in which more than one component was gone at a time
	Faults                                     Faults
	MaxSettle                                  time.Duration // from peace until everything has come to rest
	MaxHold, MaxBlocked, Virtual               time.Duration
	Components, Primaries, Volumes, Clients    int
	SyncRuns, GroupRuns, SmallJournals         int // runs of a first group in sync mode, of several groups, with small journals
	Groups                                     int
	Length, Planned                            time.Duration // of writes and faults, here and before the reduction
	Happened                                   []int         // the faults that came to their time, by their numbers in the plan
	Digest                                     uint64        // of the course: every event's time and name, in order
}

// add takes another run in.
func (s *Stats) add(o Stats) {
	s.Digest ^= o.Digest
	s.Events += o.Events
	s.Writes += o.Writes
	s.Sets += o.Sets
	s.Checks += o.Checks
	s.Points += o.Points
	s.Kills += o.Kills
	s.Losses += o.Losses
	s.Left += o.Left
	s.GiveUps += o.GiveUps
	s.Seals += o.Seals
	s.Voids += o.Voids
	s.Promotes += o.Promotes
	s.Resyncs += o.Resyncs
	s.Copies += o.Copies
	s.Folded += o.Folded
	s.Spilled += o.Spilled
	s.SpoolsLost += o.SpoolsLost
	s.Kept += o.Kept
	s.Resumed += o.Resumed
	s.Interrupted += o.Interrupted
	s.PowerCuts += o.PowerCuts
	s.SyncRuns += o.SyncRuns
	s.SmallJournals += o.SmallJournals
	s.GroupRuns += o.GroupRuns
	s.Excused += o.Excused
	s.Grown += o.Grown
	s.Degraded += o.Degraded
	s.Again += o.Again
	s.Early += o.Early
	s.JournalsLost += o.JournalsLost
	s.SourceErrors += o.SourceErrors
	s.TargetErrors += o.TargetErrors
	s.Torn += o.Torn
	s.Copied += o.Copied
	s.ChecksEnded += o.ChecksEnded
	s.ChecksStopped += o.ChecksStopped
	s.Compared += o.Compared
	s.Differed += o.Differed
	s.Mended += o.Mended
	s.Unanswered += o.Unanswered
	s.Flips += o.Flips
	s.Recopies += o.Recopies
	s.LateChecks += o.LateChecks
	s.GrowCuts += o.GrowCuts
	s.Abandoned += o.Abandoned
	s.InPlace += o.InPlace
	s.RoomMade += o.RoomMade
	for k := range s.Faults {
		s.Faults[k] += o.Faults[k]
	}
	s.MaxSettle = max(s.MaxSettle, o.MaxSettle)
	s.Virtual += o.Virtual
	s.MaxHold = max(s.MaxHold, o.MaxHold)
	s.MaxBlocked = max(s.MaxBlocked, o.MaxBlocked)
}

// digest takes an event into the digest: two runs with the same digest took the same course.
func (s *Stats) digest(e *event) {
	const prime = 1099511628211 // of FNV-1a
	d := (s.Digest ^ uint64(e.at)) * prime
	for i := range len(e.name) {
		d = (d ^ uint64(e.name[i])) * prime
	}
	s.Digest = d
}

// String prints what a run did.
func (s Stats) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d events, %v virtual, %d writes (%d folded updates, %d spilled, %d spools that failed), %d sets applied, %d checks of %d points", s.Events, s.Virtual.Round(time.Millisecond), s.Writes, s.Folded, s.Spilled, s.SpoolsLost, s.Sets, s.Checks, s.Points)
	fmt.Fprintf(&b, "; %d kills (%d power cuts), %d losses, %d left, %d seals, %d given up, %d void, %d promotes, %d resyncs (%d interrupted; %d extents kept, %d not copied again)", s.Kills, s.PowerCuts, s.Losses, s.Left, s.Seals, s.GiveUps, s.Voids, s.Promotes, s.Resyncs, s.Interrupted, s.Kept, s.Resumed)
	fmt.Fprintf(&b, "; settled within %v; %d of several groups, %d excused, %d journals lost, %d source errors, %d target errors, %d small journals, %d chains without room, %d resyncs in place, %d larger journals, %d volumes grown (%d power cuts meanwhile); %d degraded, %d synchronous again, %d early acknowledgements; faults: %v", s.MaxSettle.Round(time.Millisecond), s.GroupRuns, s.Excused, s.JournalsLost, s.SourceErrors, s.TargetErrors, s.SmallJournals, s.Abandoned, s.InPlace, s.RoomMade, s.Grown, s.GrowCuts, s.Degraded, s.Again, s.Early, s.Faults)
	fmt.Fprintf(&b, "; %d parts of checks, %d checks stopped: %d pieces the same, %d differ, %d mended, %d unanswered, %d requests late; %d bits flipped, %d targets replaced; %d extents copied, %d sectors of bits torn", s.ChecksEnded, s.ChecksStopped, s.Compared, s.Differed, s.Mended, s.Unanswered, s.LateChecks, s.Flips, s.Recopies, s.Copied, s.Torn)
	fmt.Fprintf(&b, "; digest %016x", s.Digest)
	return b.String()
}
