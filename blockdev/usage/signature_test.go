//go:build linux

package usage_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"flotilla/blockdev/blockdevtest"
	"flotilla/blockdev/usage"
)

// What the programs themselves write is recognized, and no more than that.
func TestSignaturesOfPrograms(t *testing.T) {
	for name, c := range map[string]struct {
		size    int64
		command []string
		want    string
	}{
		"ext4":  {16 << 20, []string{"mkfs.ext4", "-q", "-F"}, "ext2, ext3 or ext4 file system"},
		"xfs":   {320 << 20, []string{"mkfs.xfs", "-q"}, "XFS file system"},
		"btrfs": {128 << 20, []string{"mkfs.btrfs", "-q"}, "btrfs file system"},
		"swap":  {1 << 20, []string{"mkswap"}, "swap space"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(c.command[0]); err != nil {
				blockdevtest.SkipOrFail(t, "test needs %s: %v", c.command[0], err)
			}
			path := filepath.Join(t.TempDir(), "image")
			f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := f.Truncate(c.size); err != nil {
				t.Fatal(err)
			}
			if found, err := usage.Signatures(f, c.size); err != nil || len(found) != 0 {
				t.Errorf("an empty file holds %q: %v", found, err)
			}
			if out, err := exec.Command(c.command[0], append(c.command[1:], path)...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %v\n%s", c.command, err, out)
			}
			if found, err := usage.Signatures(f, c.size); err != nil || !slices.Equal(found, []string{c.want}) {
				t.Errorf("holds %q, want %q: %v", found, c.want, err)
			}
		})
	}
}

func TestSignatures(t *testing.T) {
	const size = 4<<20 + 512 // a multiple of no more than a sector
	mbr := "\x80\x00\x01\x01\x83" + strings.Repeat("\x00", 59) + "\x55\xaa"
	for name, c := range map[string]struct {
		at    int64
		bytes string
		want  string // "" for nothing
	}{
		"LUKS":               {0, "LUKS\xba\xbe\x00\x02", "LUKS encryption"},
		"LVM":                {512, "LABELONE", "LVM physical volume"},
		"md 1.2":             {4096, "\xfc\x4e\x2b\xa9", "Linux RAID member (md 1.2)"},
		"md 1.0":             {4<<20 - 8192, "\xfc\x4e\x2b\xa9", "Linux RAID member (md 1.0)"},
		"md 0.90":            {4<<20 - 65536, "\xfc\x4e\x2b\xa9", "Linux RAID member (md 0.90)"},
		"DRBD":               {4<<20 - 4096 + 60, "\x83\x74\x02\x6d", "DRBD metadata"},
		"GPT":                {512, "EFI PART", "GPT partition table"},
		"GPT, 4096":          {4096, "EFI PART", "GPT partition table"},
		"GPT, second":        {size - 512, "EFI PART", "GPT partition table (second copy)"},
		"MBR":                {446, mbr, "MBR partition table"},
		"ZFS":                {128<<10 + 5<<10, "\x0c\xb1\xba\x00\x00\x00\x00\x00", "ZFS pool member"},
		"swap of 64 KiB":     {65536 - 10, "SWAPSPACE2", "swap space"},
		"boot sector alone":  {510, "\x55\xaa", ""},
		"no partition table": {446, "\x12" + mbr[1:], ""},
		"text":               {0, "a database without a signature", ""},
	} {
		t.Run(name, func(t *testing.T) {
			image := make([]byte, size)
			copy(image[c.at:], c.bytes)
			var want []string
			if c.want != "" {
				want = []string{c.want}
			}
			if found, err := usage.Signatures(bytes.NewReader(image), size); err != nil || !slices.Equal(found, want) {
				t.Errorf("holds %q, want %q: %v", found, want, err)
			}
		})
	}
	for length := range int64(1 << 13) { // no size is too small to look at
		if found, err := usage.Signatures(bytes.NewReader(make([]byte, length)), length); err != nil || len(found) > 0 {
			t.Fatalf("%d zero bytes hold %q: %v", length, found, err)
		}
	}
	if _, err := usage.Signatures(bytes.NewReader(nil), size); err == nil {
		t.Error("what cannot be read holds nothing")
	}
}
