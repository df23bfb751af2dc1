package core

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// TestFaultsCanBeSent: whatever a fault's text is, the message that carries it can be decoded.
func TestFaultsCanBeSent(t *testing.T) {
	var n Node
	n.SetFaults([]Fault{
		{Name: "short", Text: "kurz"},
		{Name: "split", Text: "x" + strings.Repeat("ü", maxFaultText)},
		{Name: "other", Text: "/dev/\xff\xfe"},
	})
	m, err := DecodeMessage(EncodeMessage(&Status{Faults: n.faults}))
	if err != nil {
		t.Fatal(err)
	}
	got := m.(*Status).Faults
	if len(got) != 3 || got[0].Text != "kurz" || got[2].Text != "/dev/" {
		t.Errorf("faults %+v", got)
	}
	if text := got[1].Text; !utf8.ValidString(text) || len(text) > maxFaultText+len(" …") || !strings.HasSuffix(text, "ü …") {
		t.Errorf("a long text: %q", text)
	}
}
