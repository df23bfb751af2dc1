package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"flotilla/agent"
)

// printJSON writes a document for programs.
func printJSON(w io.Writer, document any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(document)
}

// table prints rows in columns; the first row is the head.
func table(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		if _, err := fmt.Fprintln(t, strings.TrimRight(strings.Join(row, "\t"), "\t")); err != nil {
			return err
		}
	}
	return t.Flush()
}

// bytesText writes a number of bytes for people: two or three digits and a unit.
func bytesText(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	v, u := float64(n), 0
	for v >= 1000 && u < len(units)-1 {
		v, u = v/1024, u+1
	}
	if u == 0 || v >= 100 {
		return fmt.Sprintf("%.0f %s", v, units[u])
	}
	return fmt.Sprintf("%.1f %s", v, units[u])
}

// secondsText writes a duration for people; nothing is known of nil.
func secondsText(s *float64) string {
	switch {
	case s == nil:
		return "-"
	case *s < 100:
		return fmt.Sprintf("%.1fs", *s)
	}
	return (time.Duration(*s) * time.Second).String()
}

// sizeFlag is a flag that takes bytes with a unit.
type sizeFlag struct{ to *int64 }

func (f sizeFlag) String() string {
	if f.to == nil || *f.to == 0 {
		return ""
	}
	return agent.Size(*f.to).String()
}

func (f sizeFlag) Set(text string) error {
	n, err := agent.ParseSize(text)
	*f.to = int64(n)
	return err
}

func (sizeFlag) Type() string { return "size" }

// rateFlag is a flag that takes bytes a second with a unit, or none. bytes is nil while it was not given.
type rateFlag struct{ bytes *int64 }

func (f *rateFlag) String() string {
	switch {
	case f.bytes == nil:
		return ""
	case *f.bytes == 0:
		return "none"
	}
	return agent.Size(*f.bytes).String()
}

func (f *rateFlag) Set(text string) error {
	n := int64(0)
	if text != "none" {
		size, err := agent.ParseSize(text)
		if err != nil {
			return err
		}
		n = int64(size)
	}
	f.bytes = &n
	return nil
}

func (*rateFlag) Type() string { return "rate" }

// spoolFlag is a rateFlag of bytes, not of bytes a second.
type spoolFlag struct{ *rateFlag }

func (spoolFlag) Type() string { return "size" }

// printJSONLine writes a document on one line, for streams.
func printJSONLine(w io.Writer, document any) error { return json.NewEncoder(w).Encode(document) }

func joinComma(words []string) string { return strings.Join(words, ",") }

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
