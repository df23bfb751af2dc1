package fleet

import (
	"strings"
	"testing"
)

func TestMetricsSum(t *testing.T) {
	m, err := readMetrics(strings.NewReader("# HELP sent x\nsent{kind=\"data\",peer=\"a\"} 1.5e+06\n" +
		"sent{kind=\"raft\",peer=\"a\"} 7\nsent{kind=\"data\",peer=\"b\"} 20\nsent_more{kind=\"data\"} 4\nview 3\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, label string
		want        float64
	}{{"sent", `kind="data"`, 1500020}, {"sent", "", 1500027}, {"view", "", 3}} {
		if got, err := m.Sum(tc.name, tc.label); err != nil || got != tc.want {
			t.Errorf("%s with %q: %v, %v", tc.name, tc.label, got, err)
		}
	}
	for _, bad := range []Metrics{nil, {"other 1"}, {`sent{kind="data"} x`}} {
		if _, err := bad.Sum("sent", `kind="data"`); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
