package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"flotilla/agent"
	"flotilla/agent/api"

	"github.com/spf13/cobra"
)

// answerTime bounds one request: it is longer than the agent's own waits, so that the agent's word is heard.
const answerTime = 20 * time.Second

// connection finds the agent on this host.
type connection struct {
	socket, config string
}

func (c *connection) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.socket, "socket", "", "socket of the agent (default: admin.sock in the configuration's state_dir)")
	configFlag(cmd, &c.config)
}

func configFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "config", agent.DefaultConfigPath, "the agent's file")
}

// open returns a client of the agent.
func (c *connection) open() (*api.Client, error) {
	path := c.socket
	if path == "" {
		config, err := agent.LoadConfig(c.config)
		if err != nil {
			return nil, err
		}
		path = config.AdminSocket()
	}
	if _, err := os.Stat(path); err != nil {
		return nil, &api.Error{Code: api.Unavailable, Text: fmt.Sprintf(
			"no agent runs here: %v; start it with `flotilla agent`, or name another with --config or --socket", err)}
	}
	return api.NewSocketClient(path), nil
}

// with calls f with a client of the agent and a context that bounds its requests.
func (c *connection) with(ctx context.Context, f func(ctx context.Context, client *api.Client) error) error {
	client, err := c.open()
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	return f(ctx, client)
}
