package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"flotilla/nbd/internal/proto"
)

// exportName enters the transmission phase the old way, which knows no error
// reply: the connection ends if the export is not there.
//
//	size u64 │ transmission flags u16 │ 124 zeroes unless declined
func (h *handshake) exportName(data []byte) error {
	entry, info, err := h.open(string(data))
	if err != nil {
		return err
	}
	h.entry, h.info = entry, info
	var b []byte
	b = binary.BigEndian.AppendUint64(b, uint64(info.Size))
	b = binary.BigEndian.AppendUint16(b, h.transmissionFlags(info))
	if !h.noZeroes {
		b = append(b, make([]byte, 124)...)
	}
	if _, err := h.c.nc.Write(b); err != nil {
		return fmt.Errorf("answer export name: %w", err)
	}
	return nil
}

// open finds an export and asks it to describe itself.
func (h *handshake) open(name string) (*exportEntry, Info, error) {
	if !validName(name) {
		return nil, Info{}, fmt.Errorf("%w: export name of %d bytes is not a string of at most %d bytes",
			ErrProtocol, len(name), proto.MaxString)
	}
	entry := h.c.srv.lookup(name)
	if entry == nil {
		return nil, Info{}, fmt.Errorf("%w: %q", ErrUnknownExport, name)
	}
	info, err := entry.export.Info().normalize(h.c.srv.limits.Payload)
	if err != nil {
		return nil, Info{}, fmt.Errorf("open export %q: %w", entry.name, err)
	}
	return entry, info, nil
}

func validName(name string) bool {
	return len(name) <= proto.MaxString && utf8.ValidString(name) && !strings.ContainsRune(name, 0)
}

func (h *handshake) transmissionFlags(info Info) uint16 {
	flags := info.TransmissionFlags()
	if h.structured {
		flags |= proto.FlagSendDF
	}
	return flags
}

// list names the exports, each as
//
//	length u32 │ name │ description
func (h *handshake) list(out *optionReplies, data []byte) {
	if len(data) > 0 {
		out.fail(proto.RepErrInvalid, "list takes no data")
		return
	}
	for _, e := range h.c.srv.list() {
		b := appendString(nil, e.name)
		if info, err := e.export.Info().normalize(h.c.srv.limits.Payload); err == nil {
			b = append(b, info.Description...)
		}
		out.add(proto.RepServer, b)
	}
	out.ack()
}

// infoOrGo describes an export and, for GO, enters the transmission phase.
//
//	length u32 │ name │ count u16 │ information u16 …
func (h *handshake) infoOrGo(out *optionReplies, opt uint32, data []byte) (chosen bool) {
	name, rest, ok := cutString(data)
	if !ok || len(rest) < 2 || len(rest) != 2+2*int(binary.BigEndian.Uint16(rest)) {
		out.fail(proto.RepErrInvalid, "the lengths in the request do not match its size")
		return false
	}
	wanted := map[uint16]bool{}
	for rest = rest[2:]; len(rest) > 0; rest = rest[2:] {
		wanted[binary.BigEndian.Uint16(rest)] = true
	}
	entry, info, err := h.open(name)
	if err != nil {
		out.fail(openFailure(err), err.Error())
		return false
	}
	out.add(proto.RepInfo, exportInfo(info, h.transmissionFlags(info)))
	if wanted[proto.InfoName] || name != entry.name {
		b := binary.BigEndian.AppendUint16(nil, proto.InfoName)
		out.add(proto.RepInfo, append(b, entry.name...))
	}
	if wanted[proto.InfoDescription] && info.Description != "" {
		b := binary.BigEndian.AppendUint16(nil, proto.InfoDescription)
		out.add(proto.RepInfo, append(b, info.Description...))
	}
	// Sent unasked too: who does not know it must ignore it.
	out.add(proto.RepInfo, blockSizeInfo(info))
	out.ack()
	if opt == proto.OptInfo {
		return false
	}
	h.entry, h.info = entry, info
	return true
}

// openFailure returns the reply type for an export that cannot be opened.
func openFailure(err error) uint32 {
	switch {
	case errors.Is(err, ErrProtocol):
		return proto.RepErrInvalid
	case errors.Is(err, ErrUnknownExport):
		return proto.RepErrUnknown
	}
	return proto.RepErrPlatform
}

func exportInfo(info Info, flags uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, proto.InfoExport)
	b = binary.BigEndian.AppendUint64(b, uint64(info.Size))
	return binary.BigEndian.AppendUint16(b, flags)
}

func blockSizeInfo(info Info) []byte {
	b := binary.BigEndian.AppendUint16(nil, proto.InfoBlockSize)
	b = binary.BigEndian.AppendUint32(b, info.MinBlock)
	b = binary.BigEndian.AppendUint32(b, info.PreferredBlock)
	return binary.BigEndian.AppendUint32(b, info.MaxPayload)
}

// metaContext lists or selects metadata contexts: there is base:allocation,
// for exports that know their extents.
//
//	length u32 │ export name │ count u32 │ (length u32 │ query) …
func (h *handshake) metaContext(out *optionReplies, opt uint32, data []byte) {
	if opt == proto.OptSetMetaContext {
		h.metaExport = nil // every attempt replaces what was selected before
	}
	if !h.structured {
		out.fail(proto.RepErrInvalid, "structured replies must be negotiated first")
		return
	}
	name, rest, ok := cutString(data)
	if !ok || len(rest) < 4 {
		out.fail(proto.RepErrInvalid, "the lengths in the request do not match its size")
		return
	}
	count := binary.BigEndian.Uint32(rest)
	rest = rest[4:]
	match := count == 0 && opt == proto.OptListMetaContext
	for range count { // each takes at least 4 of the bounded bytes
		var query string
		if query, rest, ok = cutString(rest); !ok || len(query) > proto.MaxString {
			out.fail(proto.RepErrInvalid, "the lengths in the request do not match its size")
			return
		}
		wildcard := query == "base:" && opt == proto.OptListMetaContext
		match = match || wildcard || query == allocationName
	}
	if len(rest) > 0 {
		out.fail(proto.RepErrInvalid, "data after the last query")
		return
	}
	entry, info, err := h.open(name)
	if err != nil {
		out.fail(openFailure(err), err.Error())
		return
	}
	if match && info.Features&CanExtents != 0 {
		id := uint32(0) // reserved in a list
		if opt == proto.OptSetMetaContext {
			id = allocationContext
			h.metaExport = entry
		}
		out.add(proto.RepMetaContext, append(binary.BigEndian.AppendUint32(nil, id), allocationName...))
	}
	out.ack()
}

const allocationName = "base:allocation"

// cutString takes a string with its length before it off b.
func cutString(b []byte) (s string, rest []byte, ok bool) {
	if len(b) < 4 {
		return "", nil, false
	}
	n := binary.BigEndian.Uint32(b)
	if uint64(n) > uint64(len(b)-4) {
		return "", nil, false
	}
	return string(b[4 : 4+n]), b[4+n:], true
}

func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}
