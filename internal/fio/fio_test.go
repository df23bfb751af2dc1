package fio

import (
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	const text = `fio: connected to NBD server
{"jobs": [{"error": 0,
  "read": {"iops": 0, "bw_bytes": 0},
  "write": {"iops": 1234.5, "clat_ns": {"percentile": {"99.000000": 2000000}}}}]}`
	got, err := Job{RW: "randwrite"}.Parse([]byte(text))
	if err != nil || got.IOPS != 1234.5 || got.P99 != 2*time.Millisecond {
		t.Errorf("parse = %+v, %v", got, err)
	}
	for name, bad := range map[string]string{
		"no reads":      text,
		"failed I/O":    strings.Replace(strings.Replace(text, `"error": 0`, `"error": 5`, 1), `"iops": 0`, `"iops": 7`, 1),
		"no jobs":       `{"jobs": []}`,
		"not a word":    "",
		"no JSON":       "fio: nothing",
		"broken off":    text[:80],
		"no brace read": "}",
	} {
		if got, err := (Job{RW: "randread"}).Parse([]byte(bad)); err == nil {
			t.Errorf("%s: parse = %+v, want an error", name, got)
		}
	}
}
