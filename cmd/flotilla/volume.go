package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func volumeCommand() *cobra.Command {
	c := parent("volume", "Make, enlarge, copy anew, delete, list, attach and detach volumes", "A volume is one replicated device: a source on a primary, a target on a secondary.")
	c.Example = "  flotilla volume create db/data --primary host-a --source /dev/vg/data --secondary host-b --target /dev/vg/copy\n  flotilla volume list"
	c.AddCommand(volumeCreateCommand(), volumeResizeCommand(), volumeRecopyCommand(), volumeDeleteCommand(), volumeListCommand(), volumeAttachCommand(), volumeDetachCommand())
	return c
}

// splitVolume takes GROUP/VOLUME apart.
func splitVolume(text string) (group, volume string, err error) {
	group, volume, ok := strings.Cut(text, "/")
	if !ok || group == "" || volume == "" || strings.Contains(volume, "/") {
		return "", "", &usageError{fmt.Errorf("volume %q: write GROUP/VOLUME", text)}
	}
	return group, volume, nil
}
