package workload

import "testing"

func TestLayouts(t *testing.T) {
	for _, l := range []Layout{LayoutFor(MinSize), LayoutFor(64 * mib), LayoutFor(MaxSize), LayoutAround(1, MinSize), LayoutAround(10*mib+1, 64*mib)} {
		if l.Image < mib || l.Chain-l.Image < 4*mib || l.Size-l.Chain < mib || l.Image%BlockSize != 0 || l.Chain%BlockSize != 0 || l.Size%BlockSize != 0 {
			t.Errorf("%+v", l)
		}
	}
	if l := LayoutAround(10*mib+1, 64*mib); l.Image != 11*mib {
		t.Errorf("an image of 10 MiB and a byte has %d bytes", l.Image)
	}
}
