package wire_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"flotilla/wire"
)

var testCluster = wire.ClusterID{1, 2, 3}

// exchange runs both ends of a handshake over an unbuffered pipe.
func exchange(t *testing.T, initiator, acceptor wire.Hello) (i, a wire.Negotiated, ierr, aerr error) {
	t.Helper()
	left, right := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		a, aerr = wire.Accept(right, acceptor)
	}()
	i, ierr = wire.Initiate(left, initiator)
	<-done
	left.Close()
	right.Close()
	return i, a, ierr, aerr
}

func TestHelloNegotiates(t *testing.T) {
	own := wire.Hello{Min: 1, Max: 4, Role: wire.RoleData, Features: 0b0111, Cluster: testCluster, Agent: 1}
	peer := wire.Hello{Min: 2, Max: 3, Features: 0b1101, Cluster: testCluster, Agent: 2}
	i, a, ierr, aerr := exchange(t, own, peer)
	if ierr != nil || aerr != nil {
		t.Fatal(ierr, aerr)
	}
	for _, n := range []wire.Negotiated{i, a} {
		if n.Version != 3 || n.Features != 0b0101 || n.Role != wire.RoleData {
			t.Errorf("negotiated %+v", n)
		}
	}
	if i.Peer.Agent != 2 || a.Peer.Agent != 1 {
		t.Errorf("peers %d and %d", i.Peer.Agent, a.Peer.Agent)
	}
}

func TestHelloRefuses(t *testing.T) {
	own := wire.Hello{Min: 1, Max: 2, Role: wire.RoleData, Cluster: testCluster, Agent: 1}
	for name, c := range map[string]struct {
		change func(*wire.Hello)
		want   error
		text   []string
	}{
		"version": {func(h *wire.Hello) { h.Min, h.Max = 3, 5 }, wire.ErrVersion, []string{"1 to 2", "3 to 5"}},
		"cluster": {func(h *wire.Hello) { h.Cluster[0]++ }, wire.ErrCluster, []string{testCluster.String()}},
		"role":    {func(h *wire.Hello) { h.Role = wire.RoleControl }, wire.ErrRole, []string{"data", "control"}},

		"another generation": {func(h *wire.Hello) { h.Generation = 7 }, wire.ErrGeneration, []string{"generation 7", "generation 0"}},
		"another promise":    {func(h *wire.Hello) { h.Promised = 7 }, wire.ErrGeneration, []string{"generation 0, ready for 7"}},
	} {
		peer := own
		peer.Agent = 2
		c.change(&peer)
		_, _, ierr, aerr := exchange(t, own, peer)
		for _, err := range []error{ierr, aerr} {
			if !errors.Is(err, c.want) {
				t.Errorf("%s: %v", name, err)
				continue
			}
			for _, s := range c.text {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%s: %v does not name %q", name, err, s)
				}
			}
		}
	}
}

// Who has promised a generation talks to those who are in it, and says what it is itself.
func TestHelloOfAPromise(t *testing.T) {
	in := wire.NewHello(testCluster, 1, wire.RoleControl, 0)
	in.Generation = 2
	ready := wire.NewHello(testCluster, 2, 0, 0)
	ready.Generation, ready.Promised = 1, 2
	i, a, ierr, aerr := exchange(t, in, ready)
	if ierr != nil || aerr != nil || i.Peer.Generation != 1 || i.Peer.Promised != 2 || a.Peer.Generation != 2 {
		t.Errorf("peers %+v and %+v: %v, %v", i.Peer, a.Peer, ierr, aerr)
	}
}

// The hello of a release that knew no generations is shorter: it is of generation 0.
func TestHelloWithoutGeneration(t *testing.T) {
	h := wire.NewHello(testCluster, 9, wire.RoleData, 3)
	h.Generation = 5
	old := h.Append(nil)[:48]
	binary.LittleEndian.PutUint16(old[4:], 52)
	old = binary.LittleEndian.AppendUint32(old, crc32.Checksum(old, crc32.MakeTable(crc32.Castagnoli)))
	h.Generation = 0
	if got, err := wire.ReadHello(bytes.NewReader(old)); err != nil || got != h {
		t.Errorf("read %+v, %v", got, err)
	}
}

// A hello says where its sender listens; that of a release that did not is shorter, or has an address that does not fit it.
func TestHelloAddress(t *testing.T) {
	h := wire.NewHello(testCluster, 9, wire.RoleData, 3)
	h.Generation, h.Address = 5, "db1.example:7450"
	raw := h.Append(nil)
	if got, err := wire.ReadHello(bytes.NewReader(raw)); err != nil || got != h {
		t.Errorf("read %+v, %v", got, err)
	}
	end := func(raw []byte) []byte {
		binary.LittleEndian.PutUint16(raw[4:], uint16(len(raw)+4))
		return binary.LittleEndian.AppendUint32(raw, crc32.Checksum(raw, crc32.MakeTable(crc32.Castagnoli)))
	}
	if _, err := wire.ReadHello(bytes.NewReader(end(slices.Clone(raw[:len(raw)-5])))); !errors.Is(err, wire.ErrCorrupt) {
		t.Errorf("an address that is cut short: %v", err)
	}
	h.Address = ""
	if got, err := wire.ReadHello(bytes.NewReader(end(slices.Clone(raw[:64])))); err != nil || got != h {
		t.Errorf("read %+v, %v", got, err)
	}
}

// A hello of a later version is longer; what follows the known fields is skipped, and nothing behind it is read.
func TestHelloOfLaterVersion(t *testing.T) {
	raw := wire.NewHello(testCluster, 5, wire.RoleData, 3).Append(nil)
	longer := append(slices.Clone(raw[:len(raw)-4]), "a later field, with its CRC"...)
	binary.LittleEndian.PutUint16(longer[4:], uint16(len(longer)))
	r := bytes.NewReader(append(mendEnd(longer), "rest"...))
	h, err := wire.ReadHello(r)
	if err != nil || h.Agent != 5 || h.Features != 3 {
		t.Errorf("%+v, %v", h, err)
	}
	if rest, _ := io.ReadAll(r); string(rest) != "rest" {
		t.Errorf("left %q", rest)
	}
}

func TestHelloEveryByteCorrupted(t *testing.T) {
	raw := wire.NewHello(testCluster, 5, wire.RoleData, 3).Append(nil)
	for i := range raw {
		bad := slices.Clone(raw)
		bad[i] ^= 0x40
		if _, err := wire.ReadHello(bytes.NewReader(bad)); err == nil {
			t.Errorf("byte %d", i)
		}
	}
}

func FuzzReadHello(f *testing.F) {
	f.Add(wire.NewHello(testCluster, 5, wire.RoleControl, 1<<63).Append(nil))
	f.Add([]byte("GET / HTTP/1.1\r\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, in := range [][]byte{raw, mendEnd(raw)} {
			h, err := wire.ReadHello(bytes.NewReader(in))
			if err != nil {
				continue
			}
			if again, err := wire.ReadHello(bytes.NewReader(h.Append(nil))); err != nil || again != h {
				t.Fatalf("%+v, %+v, %v", h, again, err)
			}
		}
	})
}
