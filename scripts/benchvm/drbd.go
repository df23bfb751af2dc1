package main

import (
	"context"
	"fmt"
	"os"
	"strings"
)

// drbdsetup is the tool for the driver that is part of the kernel; drbdsetup itself would look for a newer one.
const drbdsetup = "/lib/drbd/drbdsetup-84"

// The two nodes are in one kernel and reach each other over the loopback.
const (
	drbdOne  = "ipv4:127.0.0.1:7789"
	drbdTwo  = "ipv4:127.0.0.1:7790"
	drbdNode = "/dev/drbd0"
)

// drbd is two resources that replicate to each other.
type drbd struct {
	size     int64
	protocol string
}

func startDRBD(ctx context.Context, s specification) (*drbd, error) {
	d := &drbd{size: s.Size, protocol: "C"}
	if err := os.MkdirAll("/run/lock", 0o755); err != nil { // where drbdmeta has its locks
		return nil, err
	}
	for i, name := range []string{"one", "two"} {
		disk := ram(i)
		for _, c := range []string{
			fmt.Sprintf("drbdmeta --force %d v08 %s internal create-md", i, disk),
			fmt.Sprintf("%s new-resource %s", drbdsetup, name),
			fmt.Sprintf("%s new-minor %s %d 0", drbdsetup, name, i),
			fmt.Sprintf("%s attach %d %s %s internal", drbdsetup, i, disk, disk),
		} {
			if err := words(ctx, c); err != nil {
				return nil, err
			}
		}
	}
	for _, c := range []string{"one " + drbdOne + " " + drbdTwo, "two " + drbdTwo + " " + drbdOne} {
		if err := words(ctx, drbdsetup+" connect "+c+" --protocol=C"); err != nil {
			return nil, err
		}
	}
	err := until(ctx, waitTime, "DRBD is connected", func() (bool, error) {
		_, connected, err := drbdState()
		return connected, err
	})
	if err != nil {
		return nil, err
	}
	for _, c := range []string{"new-current-uuid --clear-bitmap 0", "primary 0"} {
		if err := words(ctx, drbdsetup+" "+c); err != nil {
			return nil, err
		}
	}
	if err := fill(drbdNode, s.Size); err != nil {
		return nil, err
	}
	return d, d.settle(ctx, "")
}

func (d *drbd) begin(ctx context.Context, who, network string) error {
	protocol := strings.ToUpper(strings.TrimPrefix(who, "drbd-"))
	if protocol != d.protocol {
		for _, c := range []string{drbdOne + " " + drbdTwo, drbdTwo + " " + drbdOne} {
			if err := words(ctx, drbdsetup+" net-options "+c+" --protocol="+protocol); err != nil {
				return err
			}
		}
		d.protocol = protocol
	}
	if network == unshaped {
		return nil
	}
	if err := words(ctx, "ip link set lo mtu 1500"); err != nil {
		return err
	}
	return words(ctx, "tc qdisc add dev lo root "+shapes[network])
}

func (d *drbd) end(ctx context.Context, _ string) error {
	// There may be none.
	_ = words(ctx, "tc qdisc del dev lo root")
	return words(ctx, "ip link set lo mtu 65536")
}

func (d *drbd) stop() error { return nil } // idle, it does nothing

func (d *drbd) device(string) string { return drbdNode }

// settle waits until nothing is under way.
func (d *drbd) settle(ctx context.Context, _ string) error {
	return until(ctx, waitTime, "DRBD has written everything", func() (bool, error) {
		idle, connected, err := drbdState()
		if err == nil && !connected {
			err = fmt.Errorf("DRBD has lost its connection")
		}
		return idle, err
	})
}

// drbdState reads what /proc/drbd says of the two nodes: it counts what is local, pending, not acknowledged and of the application.
func drbdState() (idle, connected bool, err error) {
	text, err := os.ReadFile("/proc/drbd")
	if err != nil {
		return false, false, err
	}
	idle, connected = parseDRBD(string(text))
	return idle, connected, nil
}

func parseDRBD(text string) (idle, connected bool) {
	both := func(word string) bool { return strings.Count(text, " "+word+" ") == 2 }
	return both("lo:0") && both("pe:0") && both("ua:0") && both("ap:0"), both("cs:Connected")
}

func (d *drbd) same(ctx context.Context, _ string) error {
	return sameBytes(ctx, ram(0), ram(1), d.size)
}

func (d *drbd) link() (int64, error) { return counter("/sys/class/net/lo/statistics/tx_bytes") }

func (d *drbd) folded(context.Context, string) (int64, error) { return 0, nil }

// close leaves the rest to the end of the machine.
func (d *drbd) close() error { return nil }
