package main

import (
	"context"
	"io"

	"flotilla/agent/api"

	"github.com/spf13/cobra"
)

// listing is a `list` command: it prints one part of the status.
type listing struct {
	short, example string
	document       func(s *api.Status) any // for programs
	print          func(w io.Writer, s *api.Status) error
}

func (l listing) command() *cobra.Command {
	var conn connection
	var asJSON bool
	c := &cobra.Command{
		Use: "list", Short: l.short, Example: l.example,
		Args: arguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return conn.with(cmd.Context(), func(ctx context.Context, client *api.Client) error {
				s, err := statusHere(ctx, client)
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(cmd.OutOrStdout(), l.document(s))
				}
				return l.print(cmd.OutOrStdout(), s)
			})
		},
	}
	conn.flags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
