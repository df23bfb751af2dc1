package blockdev_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"flotilla/blockdev"
	"flotilla/blockdev/blockdevtest"

	"golang.org/x/sys/unix"
)

// newLooped opens a loop device on a new file and closes it at the end of the test.
func newLooped(t testing.TB, opts blockdev.Options) (dev blockdev.Device, file string) {
	t.Helper()
	blockdevtest.RequireLoop(t)
	file = sparse(t, filepath.Join(t.TempDir(), "image"), 2<<20+3*4096)
	dev = mustOpen(t, blockdev.LoopPrefix+file, opts)
	t.Cleanup(func() { closeQuietly(t, dev) })
	return dev, file
}

func sparse(t testing.TB, path string, size int64) string {
	t.Helper()
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size)); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoopSuite(t *testing.T) {
	for name, opts := range map[string]blockdev.Options{"exclusive": {Exclusive: true}, "buffered": {Buffered: true}} {
		t.Run(name, func(t *testing.T) {
			blockdevtest.Run(t, func(t testing.TB) blockdev.Device {
				d, _ := newLooped(t, opts)
				return d
			})
		})
	}
}

// wantInUse fails unless the path cannot be claimed, for a reason with that text.
func wantInUse(t testing.TB, path, text string) {
	t.Helper()
	d, err := blockdev.Open(path, blockdev.Options{Exclusive: true})
	if err == nil {
		closeQuietly(t, d)
		t.Errorf("%s was claimed", path)
		return
	}
	if !errors.Is(err, blockdev.ErrInUse) || !strings.Contains(err.Error(), text) {
		t.Errorf("claim %s: %v; want ErrInUse with %q", path, err, text)
	}
}

func TestLoopIsClaimed(t *testing.T) {
	d, file := newLooped(t, blockdev.Options{Exclusive: true})
	name := d.(interface{ String() string }).String()
	_, node, _ := strings.Cut(strings.TrimSuffix(name, ")"), "(")
	wantInUse(t, blockdev.LoopPrefix+file, node)
	wantInUse(t, file, "lslocks")
	wantInUse(t, node, "lsblk "+node)
	if seen, err := blockdev.Inspect(blockdev.LoopPrefix + file); err != nil || seen.Size != d.Size() || !seen.Block || len(seen.Uses) > 0 {
		t.Errorf("inspected %+v: %v", seen, err)
	}
	if seen, err := blockdev.Inspect(file); err != nil || seen.Block || len(seen.Uses) != 1 || !strings.Contains(seen.Uses[0].String(), "`loop:`") {
		t.Errorf("inspected the file: %+v: %v", seen, err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	closeQuietly(t, mustOpen(t, blockdev.LoopPrefix+file, blockdev.Options{Exclusive: true}))
}

// What is used is not claimed, as a device nor as the file below it, and is told by whom.
func TestMountedIsNotClaimed(t *testing.T) {
	device, file := blockdevtest.Loop(t, blockdevtest.LoopConfig{Size: 16 << 20, SectorSize: 512})
	wantInUse(t, file, "losetup -d "+device)
	wantInUse(t, blockdev.LoopPrefix+file, "losetup -d "+device)
	if out, err := exec.Command("mkfs.ext4", "-q", device).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if seen, err := blockdev.Inspect(device); err != nil || len(seen.Uses) > 0 || !slices.Equal(seen.Signatures, []string{"ext2, ext3 or ext4 file system"}) || seen.BlockSizes.Logical != 512 {
		t.Errorf("inspected %+v: %v", seen, err)
	}
	at := t.TempDir()
	if err := unix.Mount(device, at, "ext4", 0, ""); err != nil {
		blockdevtest.SkipOrFail(t, "test needs to mount: %v", err)
	}
	wantInUse(t, device, "umount "+at)
	wantInUse(t, file, "umount "+at)
	if err := unix.Unmount(at, 0); err != nil {
		t.Fatal(err)
	}
	closeQuietly(t, mustOpen(t, device, blockdev.Options{Exclusive: true}))
}

func TestSwapIsNotClaimed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "swap")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"mkswap", "swapon"} {
		if out, err := exec.Command(command, file).CombinedOutput(); err != nil {
			blockdevtest.SkipOrFail(t, "test needs to swap to a file: %v: %s", err, out)
		}
	}
	wantInUse(t, file, "swapoff "+file)
	wantInUse(t, blockdev.LoopPrefix+file, "swapoff "+file)
	if out, err := exec.Command("swapoff", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	closeQuietly(t, mustOpen(t, file, blockdev.Options{Exclusive: true}))
}

func TestInspectRefuses(t *testing.T) {
	blockdevtest.RequireLoop(t)
	odd := sparse(t, filepath.Join(t.TempDir(), "odd"), 1<<20+1)
	for path, text := range map[string]string{
		blockdev.LoopPrefix + odd:       "truncate -s 1049088",
		blockdev.LoopPrefix + "/none":   "no such file",
		blockdev.LoopPrefix + "/dev/sr": "no such file",
		"/dev/null":                     "neither a regular file",
	} {
		if seen, err := blockdev.Inspect(path); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("inspect %s: %+v, %v; want %q", path, seen, err, text)
		}
	}
}
