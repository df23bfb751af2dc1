package core

import (
	"reflect"
	"testing"

	"flotilla/wire"

	"github.com/google/go-cmp/cmp"
)

func samples() []Message {
	return []Message{
		&Status{Run: 1, Round: 2, View: 3, Groups: []GroupStatus{{Group: 1, Inc: 2, Open: 3, Seq: 4, Check: &CheckProgress{Number: 5}}}, Component: &ComponentStatus{Life: 9, Rebuilding: true}},
		&Pause{Group: 1, Term: 2, Attempt: 3},
		&Paused{Group: 1, Inc: 2, Term: 3, Attempt: 4, Open: 5},
		&Resume{Group: 1, Term: 2, Attempt: 3, Set: 4},
		&Confirm{Group: 1, Inc: 2, Term: 3, Attempt: 4, Set: 5, Stood: true},
		&FrameAck{Nos: []uint64{1, 2, 3}},
		&FrameNack{No: 1, Reason: NackFull, View: 2},
		&MirrorAsk{View: 1, Portions: []SetPortion{{Group: 1, Set: 2, Inc: 3}}},
		&MirrorHave{View: 1, Holdings: []Holding{{SetPortion: SetPortion{Group: 1}, Seqs: SeqRanges{1, 2}}}},
		&MirrorWant{View: 1, Holdings: []Holding{{SetPortion: SetPortion{Group: 1}, Seqs: SeqRanges{1, 2}}}},
		&Lines{Group: 1, Set: 2, Inc: 3, View: 4, Mark: 5, Lines: []Line{{Tally: Tally{Count: 1, Digest: 2}}}},
		&LinesDone{Group: 1, Set: 2, Inc: 3, View: 4, Mark: 5, Written: true},
		&SetDone{Group: 1, Set: 2, Inc: 3, View: 4, Last: 5, Broken: true},
		&Report{Group: 1, Inc: 2, View: 3, From: 4, Held: []Holding{{Seqs: SeqRanges{1, 1}, More: SeqRanges{1, 1}}}, Marks: []MarkSeen{{Set: 1}}},
		&SealMark{Group: 1, Inc: 2, Set: 3, Mark: Manifest{First: 1, Last: 2, Lines: []Line{{}}}},
		&CaptainSees{Run: 6, Round: 7},
		&Ping{Run: 1, At: 2},
		&Pong{Run: 1, At: 2, Unreached: []wire.AgentID{3}},
		&Relay{From: 1, To: 2, Raft: true, Data: []byte{3}},
		&Checked{Group: 1, Inc: 2, Volume: 3, Results: []CheckResult{{Seq: 4, Verdict: CheckDiffers}}},
	}
}

func TestMessagesRoundTrip(t *testing.T) {
	seen := map[byte]bool{}
	for _, m := range samples() {
		raw := EncodeMessage(m)
		seen[raw[0]] = true
		have, err := DecodeMessage(raw)
		if err != nil {
			t.Fatalf("%T: %v", m, err)
		}
		if diff := cmp.Diff(m, have); diff != "" {
			t.Errorf("%T (-sent +read):\n%s", m, diff)
		}
	}
	for k := byte(1); newMessage(k) != nil; k++ {
		if !seen[k] {
			t.Errorf("kind %d (%s) has no sample here", k, reflect.TypeOf(newMessage(k)))
		}
	}
}

// Whatever comes from a peer is a message or an error, and takes memory in proportion to its length.
func FuzzDecodeMessage(f *testing.F) {
	for _, m := range samples() {
		f.Add(EncodeMessage(m))
	}
	f.Add([]byte{})
	f.Add([]byte{1, 0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := DecodeMessage(raw)
		if err == nil {
			if _, err := DecodeMessage(EncodeMessage(m)); err != nil {
				t.Fatalf("%+v does not survive its encoding: %v", m, err)
			}
		}
	})
}
