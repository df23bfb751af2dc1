//go:build linux

package usage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
)

// magic is a string of bytes at a place where what is named keeps it.
type magic struct {
	name string
	at   int64 // in bytes; below 0 from the end of the device
	// unit, if not 0, is what the end of the device is rounded down to before at is taken from there.
	unit  int64
	bytes string
	also  func(head []byte) bool // nil, or what must hold for the first 512 bytes too
}

// magics is ordered by how much a name says: the boot sector of a file system looks like a partition table.
var magics = slices.Concat([]magic{
	{name: "LUKS encryption", at: 0, bytes: "LUKS\xba\xbe"},
	{name: "LUKS encryption (second header)", at: 0x4000, bytes: "SKUL\xba\xbe"},
	{name: "ext2, ext3 or ext4 file system", at: 0x438, bytes: "\x53\xef"},
	{name: "XFS file system", at: 0, bytes: "XFSB"},
	{name: "btrfs file system", at: 0x10040, bytes: "_BHRfS_M"},
	{name: "bcache or bcachefs", at: 4096 + 24, bytes: "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"},
	{name: "bcachefs", at: 4096 + 24, bytes: "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"},
	{name: "f2fs file system", at: 1024, bytes: "\x10\x20\xf5\xf2"},
	{name: "exFAT file system", at: 3, bytes: "EXFAT   "},
	{name: "NTFS file system", at: 3, bytes: "NTFS    "},
	{name: "FAT file system", at: 54, bytes: "FAT1"},
	{name: "FAT file system", at: 82, bytes: "FAT32   "},
	{name: "ISO 9660 file system", at: 0x8001, bytes: "CD001"},
	{name: "squashfs file system", at: 0, bytes: "hsqs"},
	{name: "EROFS file system", at: 1024, bytes: "\xe2\xe1\xf5\xe0"},
	{name: "Linux RAID member (md 1.2)", at: 4096, bytes: "\xfc\x4e\x2b\xa9"},
	{name: "Linux RAID member (md 1.1)", at: 0, bytes: "\xfc\x4e\x2b\xa9"},
	{name: "Linux RAID member (md 1.0)", at: -8192, unit: 4096, bytes: "\xfc\x4e\x2b\xa9"},
	{name: "Linux RAID member (md 0.90)", at: -65536, unit: 65536, bytes: "\xfc\x4e\x2b\xa9"},
	{name: "DRBD metadata", at: -4096 + 60, unit: 4096, bytes: "\x83\x74\x02"},
	{name: "Ceph OSD", at: 0, bytes: "bluestore block device"},
	{name: "Oracle ASM disk", at: 32, bytes: "ORCLDISK"},
	{name: "qcow2 image", at: 0, bytes: "QFI\xfb"},
	{name: "GPT partition table", at: 512, bytes: "EFI PART"},
	{name: "GPT partition table", at: 4096, bytes: "EFI PART"},
	{name: "GPT partition table (second copy)", at: -512, bytes: "EFI PART"},
	{name: "GPT partition table (second copy)", at: -4096, bytes: "EFI PART"},
	{name: "MBR partition table", at: 510, bytes: "\x55\xaa", also: isPartitionTable},
}, lvm(), swap(), zfs())

// lvm returns the places of an LVM label: one of the first four sectors.
func lvm() (out []magic) {
	for sector := int64(0); sector < 4; sector++ {
		out = append(out, magic{name: "LVM physical volume", at: sector * 512, bytes: "LABELONE"})
	}
	return out
}

// swap returns the ends of the first page, for the sizes that pages have.
func swap() (out []magic) {
	for page := int64(4096); page <= 65536; page *= 2 {
		out = append(out, magic{name: "swap space", at: page - 10, bytes: "SWAPSPACE2"}, magic{name: "swap space", at: page - 10, bytes: "SWAP-SPACE"})
	}
	return out
}

// zfs returns the places of uberblocks in the first label, in both byte orders.
func zfs() (out []magic) {
	for at := int64(128 << 10); at < 256<<10; at += 1 << 10 {
		out = append(out,
			magic{name: "ZFS pool member", at: at, bytes: "\x0c\xb1\xba\x00\x00\x00\x00\x00"},
			magic{name: "ZFS pool member", at: at, bytes: "\x00\x00\x00\x00\x00\xba\xb1\x0c"})
	}
	return out
}

// isPartitionTable tells a partition table from the boot sector of a file system, which ends alike.
func isPartitionTable(head []byte) bool {
	used := false
	for at := 446; at < 510; at += 16 {
		if head[at] != 0 && head[at] != 0x80 {
			return false
		}
		used = used || head[at+4] != 0
	}
	return used
}

// headLength is how much of the beginning of a device the signatures are looked for in; tailLength of its end.
const (
	headLength = 256 << 10
	tailLength = 128 << 10
)

// Signatures returns what a device of that size holds, by name, each once. A part that can not be read is an error.
func Signatures(r io.ReaderAt, size int64) ([]string, error) {
	head, err := readAt(r, 0, min(size, headLength))
	if err != nil {
		return nil, err
	}
	from := max(0, size-tailLength)
	tail, err := readAt(r, from, size-from)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, m := range magics {
		part, at := head, m.at
		if at < 0 {
			end := size
			if m.unit != 0 {
				end = size / m.unit * m.unit
			}
			part, at = tail, end+at-from
		}
		if at < 0 || at+int64(len(m.bytes)) > int64(len(part)) || !bytes.HasPrefix(part[at:], []byte(m.bytes)) {
			continue
		}
		if (m.also == nil || m.also(head)) && !slices.Contains(out, m.name) {
			out = append(out, m.name)
		}
	}
	return out, nil
}

func readAt(r io.ReaderAt, off, length int64) ([]byte, error) {
	p := make([]byte, length)
	if n, err := r.ReadAt(p, off); err != nil && (!errors.Is(err, io.EOF) || n < len(p)) {
		return nil, fmt.Errorf("look for signatures: %w", err)
	}
	return p, nil
}
