package blockdevtest

import (
	"bytes"
	"testing"

	"flotilla/blockdev"

	"pgregory.net/rapid"
)

// testModel does random things to a device and to a slice of bytes, and compares
// them. rapid prints the seed and the smallest sequence that fails. One device
// serves all sequences, zeroed in between, because some are dear to make.
func testModel(t *testing.T, open func(t testing.TB) blockdev.Device) {
	d := open(t)
	defer func() {
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}()
	// The window is the end of the device, with its borders.
	const window = 300_000
	base := d.Size() - window
	rapid.Check(t, func(rt *rapid.T) {
		if err := d.WriteZeroes(base, window, true); err != nil {
			rt.Fatalf("zero the window: %v", err)
		}
		m := &model{dev: d, base: base, want: make([]byte, window)}
		rt.Repeat(map[string]func(*rapid.T){
			"write":    m.write,
			"zero":     m.zero,
			"trim":     m.trim,
			"read":     m.read,
			"extents":  m.extents,
			"flush":    func(rt *rapid.T) { m.must(rt, d.Flush()) },
			"":         func(*rapid.T) {},
			"read all": func(rt *rapid.T) { m.compare(rt, 0, window) },
		})
		m.compare(rt, 0, window)
	})
}

type model struct {
	dev  blockdev.Device
	base int64
	want []byte
}

func (m *model) must(rt *rapid.T, err error) {
	if err != nil {
		rt.Fatal(err)
	}
}

// span draws a range in the window; borders of sectors and chunks are likely.
func (m *model) span(rt *rapid.T) (at, n int) {
	border := rapid.SampledFrom([]int{1, 512, 4096, 65536}).Draw(rt, "border")
	at = rapid.IntRange(0, (len(m.want)-1)/border).Draw(rt, "index") * border
	at = min(max(at+rapid.IntRange(-2, 2).Draw(rt, "shift"), 0), len(m.want)-1)
	most := rapid.SampledFrom([]int{3, 600, 5000, 140_000, len(m.want)}).Draw(rt, "most")
	n = rapid.IntRange(0, min(most, len(m.want)-at)).Draw(rt, "length")
	if rapid.Bool().Draw(rt, "whole sectors") {
		n = min((n+511)&^511, len(m.want)-at)
	}
	return at, n
}

func (m *model) write(rt *rapid.T) {
	at, n := m.span(rt)
	p := bytes.Repeat([]byte{byte(rapid.IntRange(1, 255).Draw(rt, "byte"))}, n)
	if rapid.Bool().Draw(rt, "aligned memory") {
		p = append(blockdev.AlignedBuffer(n)[:0], p...)
	}
	done, err := m.dev.WriteAt(p, m.base+int64(at))
	m.must(rt, err)
	if done != n {
		rt.Fatalf("wrote %d of %d bytes", done, n)
	}
	copy(m.want[at:], p)
}

func (m *model) zero(rt *rapid.T) {
	at, n := m.span(rt)
	m.must(rt, m.dev.WriteZeroes(m.base+int64(at), int64(n), rapid.Bool().Draw(rt, "may trim")))
	clear(m.want[at : at+n])
}

func (m *model) trim(rt *rapid.T) {
	at, n := m.span(rt)
	m.must(rt, m.dev.Trim(m.base+int64(at), int64(n)))
	clear(m.want[at : at+n])
}

func (m *model) read(rt *rapid.T) {
	at, n := m.span(rt)
	m.compare(rt, at, n)
}

func (m *model) extents(rt *rapid.T) {
	at, n := m.span(rt)
	m.must(rt, checkExtents(m.dev, m.base+int64(at), int64(n)))
}

func (m *model) compare(rt *rapid.T, at, n int) {
	got := bytes.Repeat([]byte{0xEE}, n)
	done, err := m.dev.ReadAt(got, m.base+int64(at))
	m.must(rt, err)
	if done != n {
		rt.Fatalf("read %d of %d bytes", done, n)
	}
	if i := firstDifference(got, m.want[at:at+n]); i >= 0 {
		rt.Fatalf("byte %d of the window is %#x, want %#x", at+i, got[i], m.want[at+i])
	}
}
