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
		Long: "Run the agent of this host in the foreground, until SIGTERM or an interrupt. It logs to standard error, and tells systemd\n" +
			"when it is ready and that it gets on, where systemd asks for that (flotilla.service does).\n" +
			"The host must belong to a cluster: `flotilla cluster init` or `flotilla cluster join` comes first.",
		Example: "  flotilla agent --config /etc/flotilla/agent.yaml",
		Args:    arguments,
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
			systemd, err := newNotifier(log)
			if err != nil {
				return err
			}
			options := agent.Options{Logger: log, Version: version(), Sockets: device.OpenStore(os.Getenv)}
			systemd.attach(&options)
			a, err := agent.New(cfg, options)
			if err != nil {
				return err
			}
			return systemd.with(cmd.Context(), a.Run)
		},
	}
	configFlag(c, &config)
	return c
}
