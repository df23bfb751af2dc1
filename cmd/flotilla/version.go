package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"flotilla/agent/api"

	"github.com/spf13/cobra"
)

// release is set by the linker.
var release = "dev"

// version returns the release, with the commit that it was built from where that is known.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return release
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return release + "-" + s.Value[:min(12, len(s.Value))]
		}
	}
	return release
}

func versionCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "version", Short: "Print the version of this program", Example: "  flotilla version --json",
		Args: arguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := struct {
				Version string `json:"version"`
				Go      string `json:"go"`
				API     int    `json:"api"`
			}{version(), runtime.Version(), api.Version}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), v)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "flotilla %s (%s, API %d)\n", v.Version, v.Go, v.API)
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
