package api

import "time"

// CheckRequest begins a check of a group, or of one volume. Rate is in bytes a second of each primary; 0 stands for its
// default.
type CheckRequest struct {
	Volume string `json:"volume,omitempty"`
	Repair bool   `json:"repair,omitempty"`
	Rate   int64  `json:"rate_bytes_per_second,omitempty"`
}

// CheckSchedule is when a group is checked by itself: so many seconds from the beginning of one check to the next, 0 for
// never. It replaces the one before as a whole.
type CheckSchedule struct {
	EverySeconds int64 `json:"every_seconds"`
	Repair       bool  `json:"repair"`
	Rate         int64 `json:"rate_bytes_per_second"` // see CheckRequest
}

// Check is the newest check of a group. Its figures are of bytes.
type Check struct {
	Number    uint64    `json:"number"`
	Volume    string    `json:"volume"` // the only one; empty for all
	Repair    bool      `json:"repair"`
	Rate      int64     `json:"rate_bytes_per_second"` // that was asked for, 0 for the default
	Started   time.Time `json:"started"`
	Scheduled bool      `json:"scheduled"`
	Running   bool      `json:"running"`
	Stopped   bool      `json:"stopped"` // before its end

	Total     int64 `json:"total_bytes"`
	Done      int64 `json:"done_bytes"`
	Differing int64 `json:"differing_bytes"` // in pieces that differ somewhere
	Repaired  int64 `json:"repaired_bytes"`  // of these
	Unknown   int64 `json:"unknown_bytes"`   // that could not be compared
	// LeftSeconds is when it will have ended if it goes on so; null when not known.
	LeftSeconds *float64 `json:"left_seconds"`
	// Found are the first pieces of each primary that differ.
	Found []CheckFound `json:"found"`
}

// CheckFound is a piece of a target that is not what its source was at that point of the set.
type CheckFound struct {
	Volume     string `json:"volume"`
	Offset     uint64 `json:"offset"`
	Length     uint64 `json:"length"`
	Set        uint64 `json:"set"`
	Unreadable bool   `json:"unreadable"` // the target could not be read
	Repaired   bool   `json:"repaired"`
}
