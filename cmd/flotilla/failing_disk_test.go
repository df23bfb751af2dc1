package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"flotilla/agent/api"
	"flotilla/blockdev/blockdevtest"
	"flotilla/internal/fleet"
	"flotilla/nbd/nbdclient"
)

// TestUnreadableSource copies a disk whose end can not be read: the state and the alarm name the places, the rest is
// copied, and what the runbook says mends it. A loop device fails so where its file was cut off.
func TestUnreadableSource(t *testing.T) {
	const size, cut, extent = 16 << 20, 14 << 20, 1 << 20
	dir := demoDir(t)
	device, backing := blockdevtest.Loop(t, blockdevtest.LoopConfig{Size: size, SectorSize: 512})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Truncate(backing, cut))
	ctx, stop := context.WithCancelCause(t.Context())
	defer stop(nil)
	f := fleet.New(program(t), dir, stop)
	defer func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}()
	h, err := f.Add(fleet.Member{Name: "a", Roles: "primary, backup, secondary"})
	must(err)
	must(f.Assemble(ctx, func(*fleet.Host) {}))
	target := filepath.Join(dir, "target")
	must(os.WriteFile(target, nil, 0o600))
	must(os.Truncate(target, size))
	for _, args := range [][]string{
		{"group", "create", "db"}, {"volume", "create", "db/data", "--primary", "a", "--source", device, "--secondary", "a", "--target", target},
	} {
		_, err := f.Command(ctx, append(args, "--socket", h.Socket())...)
		must(err)
	}
	until := func(what string, done func(s *api.Status, v *api.Volume) bool) {
		t.Helper()
		var last *api.Status
		if err := fleet.Until(ctx, 2*fleet.StepTime, what, func(ctx context.Context) (bool, error) {
			s, err := h.Status(ctx)
			if s != nil {
				last = s
			}
			if err != nil || s == nil || s.Group("db") == nil || len(s.Group("db").Volumes) != 1 {
				return false, err
			}
			return done(s, &s.Group("db").Volumes[0]), nil
		}); err != nil {
			t.Fatalf("%v\n%+v\n%s", err, last, h.Tail())
		}
	}
	until("the alarm names what can not be read", func(s *api.Status, v *api.Volume) bool {
		return v.CopyLeft == size-cut && slices.Equal(v.Faults, []string{"source-unreadable"}) && slices.ContainsFunc(s.Alarms, func(a api.Alarm) bool {
			return a.Name == "source-unreadable" && a.Group == "db" && strings.HasSuffix(a.Text, fmt.Sprintf("at %d+%d, %d+%d", cut, extent, cut+extent, extent))
		})
	})
	// The runbook writes zeroes with qemu-io; this is the same request without it.
	c, err := nbdclient.Dial(ctx, "unix", h.NBD, "db/data")
	must(err)
	for off := int64(cut); off < size; off += extent {
		must(c.WriteAt(ctx, make([]byte, extent), off, 0))
	}
	must(c.Close())
	until("the copy is whole", func(s *api.Status, v *api.Volume) bool { return v.Copied && len(v.Faults) == 0 && len(s.Faults) == 0 })
}
