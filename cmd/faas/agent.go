package main

import (
	"errors"
	"os"

	"github.com/spf13/cobra"
)

func (o *options) agentCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "agent", Short: "Make this machine a node of a cluster",
		Example: "  sudo faas agent join https://10.0.0.1:6443 --token F1…\n  sudo faas agent stop",
	}
	s := &serverFlags{}
	cmd.AddCommand(o.agentJoin(s), o.agentStop(s))
	s.addPlace(cmd.PersistentFlags())
	return cmd
}

// needRoot is what comes before running anything on this machine.
func needRoot(cmd *cobra.Command, _ []string) error {
	if os.Geteuid() != 0 {
		return errors.New("running containers needs root: use sudo")
	}
	return fromEnvironment(cmd.Flags())
}

func (o *options) agentJoin(s *serverFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use: "join URL --token TOKEN", Short: "Join the cluster of a server, and run as its node",
		Long: `Makes this machine a node of the cluster whose server answers at URL, and runs
the node in the foreground: containerd, the node agent, and a gateway that serves
the cluster's functions. The token comes from ` + "`faas token create`" + ` on the server; it
is sent to nobody but a server of its cluster. A machine that has joined needs no
token any more.

On SIGTERM the node's containers go on, to be adopted by the next start. Ctrl-C,
and ` + "`faas agent stop`" + `, end them too.`,
		Example: `  sudo faas agent join https://10.0.0.1:6443 --token F1…
  sudo faas agent join https://10.0.0.1:6443 --listen 0.0.0.0:8080     # again, later`,
		Args: cobra.ExactArgs(1), PreRunE: needRoot,
		RunE: func(cmd *cobra.Command, args []string) error {
			log, err := s.logger()
			if err != nil {
				return err
			}
			s.c.Join = args[0]
			return s.run(cmd, log)
		},
	}
	f := cmd.Flags()
	f.StringVar(&s.c.Token, "token", "", "`token` that faas token create has printed on the server")
	s.addNode(f)
	return cmd
}

func (o *options) agentStop(s *serverFlags) *cobra.Command {
	return &cobra.Command{
		Use: "stop", Short: "End this machine's node and everything it runs; it may join again", Args: cobra.NoArgs,
		Example: "  sudo faas agent stop", PreRunE: needRoot,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.stop(cmd) },
	}
}
