package main

import (
	"os"
	"runtime/debug"

	"flotilla/agent"
	"flotilla/agent/device"

	"github.com/spf13/cobra"
)

// gcPercent is how much garbage may come to what an agent has in use before it is collected, in percent of that. Most of
// what it has in use are buffers, which cost the collector nothing, so it can be less than Go's 100.
const gcPercent = 50

func agentCommand() *cobra.Command {
	var config string
	c := &cobra.Command{
		Use:   "agent",
		Short: "Run the agent of this host",
		Long: "Run the agent of this host in the foreground, until SIGTERM or an interrupt. It logs to standard error.\n" +
			"The host must belong to a cluster: `flotilla cluster init` or `flotilla cluster join` comes first.",
		Example: "  flotilla agent --config /etc/flotilla/agent.yaml",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := agent.LoadConfig(config)
			if err != nil {
				return err
			}
			log, err := cfg.Log.Logger(os.Stderr)
			if err != nil {
				return err
			}
			if os.Getenv("GOGC") == "" {
				debug.SetGCPercent(gcPercent)
			}
			a, err := agent.New(cfg, agent.Options{Logger: log, Version: version(), Sockets: device.OpenStore(os.Getenv)})
			if err != nil {
				return err
			}
			return a.Run(cmd.Context())
		},
	}
	configFlag(c, &config)
	return c
}
