package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
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
		out, err := exec.CommandContext(ctx, drbdsetup, "cstate", drbdOne, drbdTwo).Output()
		return strings.TrimSpace(string(out)) == "Connected", err
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

// settle waits until nothing is under way: /proc/drbd counts what is local, pending, not acknowledged and of the application.
func (d *drbd) settle(ctx context.Context, _ string) error {
	return until(ctx, waitTime, "DRBD has written everything", func() (bool, error) {
		text, err := os.ReadFile("/proc/drbd")
		if err != nil {
			return false, err
		}
		s := string(text)
		if strings.Count(s, "cs:Connected") != 2 {
			return false, fmt.Errorf("DRBD is not connected: %s", s)
		}
		for _, zero := range []string{" lo:0 ", " pe:0 ", " ua:0 ", " ap:0 "} {
			if strings.Count(s, zero) != 2 {
				return false, nil
			}
		}
		return true, nil
	})
}

func (d *drbd) same(ctx context.Context, _ string) error {
	return sameBytes(ctx, ram(0), ram(1), d.size)
}

func (d *drbd) link() (int64, error) { return counter("/sys/class/net/lo/statistics/tx_bytes") }

func (d *drbd) folded(context.Context, string) (int64, error) { return 0, nil }

// close leaves the rest to the end of the machine.
func (d *drbd) close() error { return nil }
