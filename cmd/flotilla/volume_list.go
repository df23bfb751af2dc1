package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"flotilla/agent/api"

	"github.com/spf13/cobra"
)

func volumeListCommand() *cobra.Command {
	return listing{
		short: "List the volumes", example: "  flotilla volume list --json",
		document: volumeRows,
		print:    func(w io.Writer, s *api.Status) error { return printVolumes(w, s.Groups) },
	}.command()
}

// volumeRows returns the volumes of all groups, each with its group's name.
func volumeRows(s *api.Status) any {
	type row struct {
		Group string `json:"group"`
		api.Volume
	}
	rows := []row{}
	for i := range s.Groups {
		for _, v := range s.Groups[i].Volumes {
			rows = append(rows, row{s.Groups[i].Name, v})
		}
	}
	return rows
}

func printVolumes(w io.Writer, groups []api.Group) error {
	rows := [][]string{{"VOLUME", "SIZE", "SOURCE", "TARGET", "COPY"}}
	attached := slices.ContainsFunc(groups, func(g api.Group) bool {
		return slices.ContainsFunc(g.Volumes, func(v api.Volume) bool { return v.Device != nil })
	})
	if attached {
		rows[0] = append(rows[0], "DEVICE")
	}
	for i := range groups {
		for _, v := range groups[i].Volumes {
			row := []string{groups[i].Name + "/" + v.Name, sizeText(&v), v.Primary + ":" + v.Source, v.Secondary + ":" + v.Target, copyText(&v) + faultText(&v)}
			if attached {
				row = append(row, deviceText(v.Device))
			}
			rows = append(rows, row)
		}
	}
	return table(w, rows)
}

// sizeText returns a volume's size, and the one to which it grows.
func sizeText(v *api.Volume) string {
	if v.GrowsTo > 0 {
		return bytesText(v.Size) + ", growing to " + bytesText(v.GrowsTo)
	}
	return bytesText(v.Size)
}

// faultText names what the disks of a volume fail at.
func faultText(v *api.Volume) string {
	if len(v.Faults) == 0 {
		return ""
	}
	return "; " + strings.Join(v.Faults, ", ")
}

// copyText says how the copy of a volume stands.
func copyText(v *api.Volume) string {
	switch {
	case v.Removed != nil:
		return "removed, " + removedText(v.Removed)
	case v.CopyLeft > 0:
		done := 100 * float64(v.CopyTotal-v.CopyLeft) / float64(max(v.CopyTotal, 1))
		text := fmt.Sprintf("%.0f%%, %s left", max(done, 0), bytesText(v.CopyLeft))
		if !v.Copied {
			text = "first copy " + text
		}
		if v.CopyRate > 0 {
			text += fmt.Sprintf(" at %s/s", bytesText(v.CopyRate))
		}
		if s := v.CopySecondsLeft; s != nil {
			text += ", " + (time.Duration(min(*s, 1e9)) * time.Second).String()
		}
		return text
	case v.Copied:
		return "whole"
	}
	return "not begun"
}

// removedText says what the target of a removed volume holds.
func removedText(r *api.Removed) string {
	switch {
	case r.Point == nil:
		return "target of no use: " + r.Reason
	case !r.Done:
		return fmt.Sprintf("target on its way to set %d", r.Point.Set)
	}
	return fmt.Sprintf("target at set %d, %s", r.Point.Set, r.Point.Label.Local().Format("2006-01-02 15:04:05"))
}
