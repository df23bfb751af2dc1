package core

import (
	"fmt"

	"flotilla/wire"
)

// Manifest is the content of a mark: what a primary put into one set.
type Manifest struct {
	First  wire.Seq // first seq of the set; Last+1 = First when nothing but the mark is in it
	Last   wire.Seq // the mark's own seq
	Lines  []Line
	Broken bool            // a resync is under way at the end of the set
	Copied []wire.VolumeID // volumes whose first copy has been whole since this or an earlier set of the incarnation
	Sealed bool            // made from the reports of a seal, not by the primary
}

// Line is what the set holds of one portion.
type Line struct {
	Portion wire.Portion
	Tally
}

// Encode returns the mark's data.
func (m *Manifest) Encode() []byte { return must(msgEnc.Marshal(m)) }

// DecodeManifest reads a mark's data.
func DecodeManifest(data []byte) (*Manifest, error) {
	m := new(Manifest)
	if err := msgDec.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("decode manifest: %w", err)
	}
	return m, nil
}
