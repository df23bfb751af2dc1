package main

import (
	"context"
	"fmt"
	"io"

	"flotilla/agent/api"

	"github.com/spf13/cobra"
)

func volumeListCommand() *cobra.Command {
	var conn connection
	var asJSON bool
	c := &cobra.Command{
		Use: "list", Short: "List the volumes",
		Example: "  flotilla volume list --json",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return conn.with(cmd.Context(), func(ctx context.Context, client *api.Client) error {
				s, err := client.Status(ctx)
				if err != nil {
					return err
				}
				if asJSON {
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
					return printJSON(cmd.OutOrStdout(), rows)
				}
				return printVolumes(cmd.OutOrStdout(), s.Groups)
			})
		},
	}
	conn.flags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printVolumes(w io.Writer, groups []api.Group) error {
	rows := [][]string{{"VOLUME", "SIZE", "SOURCE", "TARGET", "COPY"}}
	for i := range groups {
		for _, v := range groups[i].Volumes {
			rows = append(rows, []string{
				groups[i].Name + "/" + v.Name, bytesText(v.Size), v.Primary + ":" + v.Source, v.Secondary + ":" + v.Target, copyText(&v),
			})
		}
	}
	return table(w, rows)
}

// copyText says how the copy of a volume stands.
func copyText(v *api.Volume) string {
	switch {
	case v.CopyLeft > 0:
		done := 100 * float64(v.CopyTotal-v.CopyLeft) / float64(max(v.CopyTotal, 1))
		return fmt.Sprintf("%.0f%%, %s left", max(done, 0), bytesText(v.CopyLeft))
	case v.Copied:
		return "whole"
	}
	return "not begun"
}
