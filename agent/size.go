package agent

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes. As text it is a whole number with or without one of the units KiB, MiB, GiB and TiB.
type Size int64

// sizeUnits is ascending, each 1024 times the one before.
const sizeUnits = "KMGT"

// ParseSize reads a size such as "512MiB" or "1048576".
func ParseSize(text string) (Size, error) {
	digits, shift := strings.TrimSpace(text), 0
	if number, ok := strings.CutSuffix(digits, "iB"); ok && number != "" {
		unit := strings.IndexByte(sizeUnits, number[len(number)-1])
		if unit < 0 {
			return 0, fmt.Errorf("parse size %q: write it in bytes, KiB, MiB, GiB or TiB, such as 10GiB", text)
		}
		digits, shift = strings.TrimSpace(number[:len(number)-1]), 10*(unit+1)
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("parse size %q: write it in bytes, KiB, MiB, GiB or TiB, such as 10GiB", text)
	}
	if n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("parse size %q: it is more than 8 EiB", text)
	}
	return Size(n << shift), nil
}

// String writes the size in the largest unit that leaves it whole.
func (s Size) String() string {
	n, unit := int64(s), -1
	for unit+1 < len(sizeUnits) && n != 0 && n%1024 == 0 {
		n, unit = n/1024, unit+1
	}
	if unit < 0 {
		return strconv.FormatInt(n, 10)
	}
	return fmt.Sprintf("%d%ciB", n, sizeUnits[unit])
}

// UnmarshalYAML reads a number of bytes or a text with a unit.
func (s *Size) UnmarshalYAML(text []byte) error {
	parsed, err := ParseSize(strings.Trim(strings.TrimSpace(string(text)), `"'`))
	if err != nil {
		return err
	}
	*s = parsed
	return nil
}
