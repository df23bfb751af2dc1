package workload

// BlockSize is what all offsets and lengths are multiples of, in bytes.
const BlockSize = 4096

const mib = int64(1 << 20)

// The sizes that a volume may have.
const (
	MinSize = 16 * mib
	MaxSize = 4 << 30
)

// Layout is how a volume's bytes are used, see the package's comment. All borders are multiples of BlockSize.
type Layout struct {
	Image int64 // [0, Image)
	Chain int64 // [Image, Chain) is the writer's, [Chain, Size) the chain's
	Size  int64
}

// LayoutFor divides a volume of a size.
func LayoutFor(size int64) Layout {
	chain := min(size/16, 4*mib)
	writer := min(size/4, 16*mib)
	return Layout{Image: size - chain - writer, Chain: size - chain, Size: size}
}

// LayoutAround puts the areas behind an image, with the writer's a quarter of size.
func LayoutAround(image, size int64) Layout {
	l := LayoutFor(size)
	image = (image + mib - 1) / mib * mib
	return Layout{Image: image, Chain: image + l.Chain - l.Image, Size: image + l.Size - l.Image}
}
