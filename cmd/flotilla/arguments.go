package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// arguments is every command's check of its arguments: there must be one for each word that its Use names behind the command,
// up to a flag. The error names what is missing or too much, and gives the command's first example.
func arguments(cmd *cobra.Command, args []string) error {
	wanted := strings.Fields(cmd.Use)[1:]
	if k := slices.IndexFunc(wanted, func(word string) bool { return strings.HasPrefix(word, "--") }); k >= 0 {
		wanted = wanted[:k]
	}
	example, _, _ := strings.Cut(strings.TrimSpace(cmd.Example), "\n")
	_, name, _ := strings.Cut(cmd.CommandPath(), " ")
	fail := func(format string, of ...any) error {
		return &usageError{fmt.Errorf("%s: %s, as in `%s`", name, fmt.Sprintf(format, of...), example)}
	}
	switch n := len(wanted); {
	case len(args) < n:
		return fail("%s is missing: name it", strings.Join(wanted[len(args):], " "))
	case len(args) > n && n == 0:
		return fail("unexpected argument %q: it takes none", args[0])
	case len(args) > n:
		return fail("unexpected argument %q: it takes %s alone", args[n], strings.Join(wanted, " "))
	case n > 0 && len(cmd.ValidArgs) > 0 && !slices.Contains(cmd.ValidArgs, args[0]):
		return fail("unknown %q: choose one of %s", args[0], strings.Join(cmd.ValidArgs, ", "))
	}
	return nil
}
