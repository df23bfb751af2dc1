//go:build linux

package usage_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"flotilla/blockdev/blockdevtest"
	"flotilla/blockdev/usage"

	"golang.org/x/sys/unix"
)

func run(t testing.TB, command ...string) {
	t.Helper()
	if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", command, err, out)
	}
}

// wantUses fails unless there is one use for each text, with that in it.
func wantUses(t testing.TB, path string, of func(string) ([]usage.Use, error), texts ...string) {
	t.Helper()
	uses, err := of(path)
	if err != nil {
		t.Fatal(err)
	}
	ok := len(uses) == len(texts)
	for i := 0; ok && i < len(uses); i++ {
		ok = strings.Contains(uses[i].String(), texts[i])
	}
	if !ok {
		t.Errorf("%s is used so: %q, want %q", path, uses, texts)
	}
}

func TestLoopAndMount(t *testing.T) {
	device, file := blockdevtest.Loop(t, blockdevtest.LoopConfig{Size: 16 << 20, SectorSize: 512})
	wantUses(t, device, usage.Of)
	wantUses(t, file, usage.Of, "the loop device "+device+" is on it (losetup -d "+device)

	run(t, "mkfs.ext4", "-q", device)
	at := filepath.Join(t.TempDir(), "with space")
	if err := os.Mkdir(at, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(device, at, "ext4", 0, ""); err != nil {
		blockdevtest.SkipOrFail(t, "test needs to mount: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	mounted := "mounted on " + at + " as ext4 (umount " + at
	wantUses(t, device, usage.Of, mounted)
	wantUses(t, file, usage.Of, "the loop device", device+": "+mounted)
	wantUses(t, filepath.Join(filepath.Dir(file), "."), usage.Of)
}

func TestSwap(t *testing.T) {
	file := filepath.Join(t.TempDir(), "swap")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "mkswap", file)
	wantUses(t, file, usage.Of)
	if out, err := exec.Command("swapon", file).CombinedOutput(); err != nil {
		blockdevtest.SkipOrFail(t, "test needs to swap to a file: %v: %s", err, out)
	}
	t.Cleanup(func() { run(t, "swapoff", file) })
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	wantUses(t, link, usage.Of, "swap space in use (swapoff "+file)
}

// What needs partitions, LVM, encryption and RAID is looked at in a copy of what their kernel shows.
func TestPartitionsAndHolders(t *testing.T) {
	proc, sys := t.TempDir(), t.TempDir()
	files := map[string]string{
		"dev":                      "8:0",
		"sda1/partition":           "1",
		"sda1/dev":                 "8:1",
		"sda2/partition":           "2",
		"sda2/dev":                 "8:2",
		"sda3/partition":           "3",
		"sda3/dev":                 "8:3",
		"sda1/holders/.keep":       "",
		"sda3/holders/md0/.keep":   "",
		"holders/bcache3/.keep":    "",
		"sda2/holders/dm-0/.keep":  "",
		"sda2/holders/dm-1/.keep":  "",
		"sda2/holders/dm-12/.keep": "",
	}
	disk := filepath.Join(sys, "block", "sda")
	for name, text := range files {
		write(t, filepath.Join(disk, name), text)
	}
	if err := os.Remove(filepath.Join(disk, "sda1/holders/.keep")); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"dm-0/dm/name": "vg-data", "dm-0/dm/uuid": "LVM-abc", "dm-1/dm/name": "secret", "dm-1/dm/uuid": "CRYPT-LUKS2-x", "dm-12/dm/name": "odd", "dm-12/dm/uuid": "",
	} {
		write(t, filepath.Join(sys, "block", name), text+"\n")
	}
	for number, dir := range map[string]string{"8:0": disk, "8:1": disk + "/sda1", "8:2": disk + "/sda2", "8:3": disk + "/sda3"} {
		link := filepath.Join(sys, "dev", "block", number)
		if err := os.MkdirAll(filepath.Dir(link), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(dir, link); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(proc, "self/mountinfo"), "42 27 8:1 / /srv\\040data rw,relatime shared:1 - xfs /dev/sda1 rw\n"+
		"43 27 0:39 /sub /pool rw - btrfs /dev/sda3 rw\n44 27 0:5 / /dev rw - devtmpfs devtmpfs rw\n")
	write(t, filepath.Join(proc, "swaps"), "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n/dev/sda3                               partition\t4092\t\t0\t\t-2\n")
	nodes := map[string]uint64{"/dev/sda": unix.Mkdev(8, 0), "/dev/sda1": unix.Mkdev(8, 1), "/dev/sda2": unix.Mkdev(8, 2), "/dev/sda3": unix.Mkdev(8, 3), "/dev/sdb": unix.Mkdev(8, 16)}
	of := usage.OfHost(proc, sys, func(path string) (unix.Stat_t, error) {
		n, ok := nodes[path]
		if !ok {
			return unix.Stat_t{}, fs.ErrNotExist
		}
		return unix.Stat_t{Mode: unix.S_IFBLK, Rdev: n}, nil
	})
	md, cached := "the RAID array md0 is built on it", "the cached device bcache3 is built on it"
	volumes := []string{"the LVM volume vg-data is built on it (vgchange", "the encrypted volume secret is built on it (cryptsetup close secret", "the mapped device odd"}
	pool := []string{"mounted on /pool as btrfs (umount /pool)", "swap space in use (swapoff /dev/sda3)", md}
	wantUses(t, "/dev/sda1", of, "mounted on /srv data as xfs (umount /srv data)", "/dev/sda: "+cached)
	wantUses(t, "/dev/sda2", of, append(volumes, "/dev/sda: "+cached)...)
	wantUses(t, "/dev/sda3", of, append(pool, "/dev/sda: "+cached)...)
	wantUses(t, "/dev/sda", of, append([]string{cached, "/dev/sda1: mounted on /srv data as xfs", "/dev/sda2: " + volumes[0], "/dev/sda2: " + volumes[1], "/dev/sda2: " + volumes[2]},
		"/dev/sda3: "+pool[0], "/dev/sda3: "+pool[1], "/dev/sda3: "+pool[2])...)
	wantUses(t, "/dev/sdb", of)
	if _, err := of("/dev/sdc"); err == nil {
		t.Error("a device that is not there is not used")
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
