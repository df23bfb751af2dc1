//go:build linux

package kernel

import (
	"bytes"
	"encoding/hex"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink/nl"
)

func encode(r *request) string {
	var b []byte
	for _, a := range r.attrs {
		b = append(b, a.Serialize()...)
	}
	return hex.EncodeToString(b)
}

// The bytes are those of a little-endian machine.
func TestRequestsAsBytes(t *testing.T) {
	if nl.NativeEndian().Uint16([]byte{1, 0}) != 1 {
		t.Skip("the golden bytes are little-endian")
	}
	c := Config{Index: 3, Size: 1 << 20, BlockSize: 512, ServerFlags: 0x6d, ClientFlags: DestroyOnDisconnect, Timeout: 10 * time.Second, DeadTimeout: 300 * time.Second, Identifier: "id"}
	for name, tc := range map[string]struct {
		got  *request
		want []string
	}{
		"connect": {connectRequest(&c, []int{7, 8}), []string{
			"0800010003000000",                                                         // INDEX
			"0c0002000000100000000000",                                                 // SIZE_BYTES
			"0c0003000002000000000000",                                                 // BLOCK_SIZE_BYTES
			"0c0004000a00000000000000",                                                 // TIMEOUT
			"0c0008002c01000000000000",                                                 // DEAD_CONN_TIMEOUT
			"0c0005006d00000000000000",                                                 // SERVER_FLAGS
			"0c0006000100000000000000",                                                 // CLIENT_FLAGS
			"07000a0069640000",                                                         // BACKEND_IDENTIFIER
			"1c000780", "0c000180", "0800010007000000", "0c000180", "0800010008000000", // SOCKETS
		}},
		"reconfigure leaves what is not given": {reconfigureRequest(0, &Change{Size: 4096}, nil), []string{"0800010000000000", "0c0002000010000000000000"}},
		"any index":                            {indexRequest(cmdStatus, AnyIndex), nil},
		"disconnect":                           {indexRequest(cmdDisconnect, 1), []string{"0800010001000000"}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(strings.Join(tc.want, ""), encode(tc.got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseMessages(t *testing.T) {
	status := "05010000" + "28000900" + // DEVICE_LIST
		"14000100" + "0800010000000000" + "0500020001000000" +
		"10000100" + "0800010002000000" + "05000200"
	b, _ := hex.DecodeString(status)
	b = append(b[:len(b)-4], 5, 0, 2, 0, 0)
	// The lengths by hand: the list holds a device of 20 bytes and one of 17, padded.
	b[4], b[24+4] = 4+20+17, 17
	m, err := parseMessage(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]State{{0, true}, {2, false}}, m.devices); diff != "" || m.command != cmdStatus {
		t.Error(diff, m.command)
	}
	for name, bad := range map[string]string{
		"short":            "0501",
		"attribute":        "05010000" + "30000100",
		"index's length":   "05010000" + "06000100" + "0000",
		"index's value":    "05010000" + "08000100" + "ffffffff",
		"device, no index": "05010000" + "08000900" + "04000100",
	} {
		b, err := hex.DecodeString(bad)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := parseMessage(b); err == nil {
			t.Errorf("%s: %x gave %+v", name, b, m)
		}
	}
}

func TestLinkDeadMessages(t *testing.T) {
	e := nl.NativeEndian()
	one := func(family uint16, command byte, index uint32) []byte {
		b := make([]byte, 28)
		e.PutUint32(b, 28)
		e.PutUint16(b[4:], family)
		b[16], b[17] = command, 1
		e.PutUint16(b[20:], 8)
		e.PutUint16(b[22:], attrIndex)
		e.PutUint32(b[24:], index)
		return b
	}
	all := bytes.Join([][]byte{one(30, cmdLinkDead, 4), one(31, cmdLinkDead, 5), one(30, cmdStatus, 6), one(30, cmdLinkDead, 7), {1, 0, 0}}, nil)
	if diff := cmp.Diff([]int{4, 7}, deadIndices(all, 30)); diff != "" {
		t.Error(diff)
	}
}

func FuzzParseMessage(f *testing.F) {
	f.Add([]byte{5, 1, 0, 0, 8, 0, 1, 0, 3, 0, 0, 0})
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = parseMessage(b)
		_ = deadIndices(b, 30)
	})
}

// The numbers are those of the kernel's header, where that is installed.
func TestNumbersOfTheHeader(t *testing.T) {
	text, err := os.ReadFile("/usr/include/linux/nbd-netlink.h")
	if err != nil {
		t.Skip(err)
	}
	want := map[string]int{
		"NBD_ATTR_INDEX": attrIndex, "NBD_ATTR_SIZE_BYTES": attrSize, "NBD_ATTR_BLOCK_SIZE_BYTES": attrBlockSize, "NBD_ATTR_TIMEOUT": attrTimeout,
		"NBD_ATTR_SERVER_FLAGS": attrServerFlags, "NBD_ATTR_CLIENT_FLAGS": attrClientFlags, "NBD_ATTR_SOCKETS": attrSockets,
		"NBD_ATTR_DEAD_CONN_TIMEOUT": attrDeadTimeout, "NBD_ATTR_DEVICE_LIST": attrDeviceList, "NBD_ATTR_BACKEND_IDENTIFIER": attrIdentifier,
		"NBD_SOCK_ITEM": sockItem, "NBD_SOCK_FD": sockFD, "NBD_DEVICE_ITEM": deviceItem, "NBD_DEVICE_INDEX": deviceIndex, "NBD_DEVICE_CONNECTED": deviceConnected,
		"NBD_CMD_CONNECT": cmdConnect, "NBD_CMD_DISCONNECT": cmdDisconnect, "NBD_CMD_RECONFIGURE": cmdReconfigure, "NBD_CMD_LINK_DEAD": cmdLinkDead, "NBD_CMD_STATUS": cmdStatus,
	}
	found := 0
	for _, body := range regexp.MustCompile(`(?s)enum \{(.*?)\}`).FindAllSubmatch(text, -1) {
		for i, name := range regexp.MustCompile(`[A-Z_]+`).FindAllString(string(body[1]), -1) {
			if n, ok := want[name]; ok {
				found++
				if n != i {
					t.Errorf("%s is %d in the header, %d here", name, i, n)
				}
			}
		}
	}
	if found != len(want) {
		t.Errorf("found %d of %d names in the header", found, len(want))
	}
}
