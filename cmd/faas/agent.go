package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/podsnap/podsnap/internal/daemon"
	"github.com/spf13/cobra"
)

func (o *options) agentCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "agent", Short: "Make this machine a node of a cluster",
		Example: "  sudo faas agent join https://10.0.0.1:6443 --token F1…\n  sudo faas agent stop",
	}
	s := &serverFlags{}
	cmd.AddCommand(o.agentJoin(s), o.agentStop(s))
	f := cmd.PersistentFlags()
	f.StringVar(&s.c.StateDir, "state-dir", defaultStateDir(), "where everything that must last is kept")
	f.StringVar(&s.c.RunDir, "run-dir", "", "where sockets are (default: below /run, by the state directory)")
	f.StringVar(&s.c.Containerd, "containerd", "", "socket of a containerd that runs already (default: one of the platform's own)")
	f.StringVar(&s.logLevel, "log-level", "info", "debug, info, warn or error")
	f.BoolVar(&s.logJSON, "log-json", false, "log as JSON")
	return cmd
}

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
			s.c.Join, s.c.Log, s.c.Version, s.c.Revision = args[0], log, version(), revision()
			s.c.TearDown = func() bool {
				i, ok := errors.AsType[*interrupted](context.Cause(cmd.Context()))
				return ok && i.Signal == os.Interrupt
			}
			return daemon.Run(cmd.Context(), s.c)
		},
	}
	f := cmd.Flags()
	f.StringVar(&s.c.Token, "token", "", "what `faas token create` printed on the server")
	f.StringVar(&s.c.Listen, "listen", "127.0.0.1:8080", "address of this node's gateway")
	f.StringVar(&s.c.MetricsListen, "metrics-listen", "127.0.0.1:8082", "address of the metrics")
	f.StringVar(&s.c.AgentListen, "agent-listen", "0.0.0.0:10250", "address at which the server asks this node")
	f.StringVar(&s.c.NodeName, "node-name", "", "name of this node (default: the host's)")
	f.StringVar(&s.c.NodeIP, "node-ip", "", "address at which other machines reach this one (default: the one that reaches the server)")
	f.DurationVar(&s.c.Timeout, "timeout", time.Minute, "longest time of an invocation, unless the function says otherwise")
	f.Int64Var(&s.c.MaxBody, "max-body", 256<<20, "largest body of a call, bytes")
	f.IntVar(&s.c.MaxConns, "max-connections", 16<<10, "connections of clients to the gateway at a time")
	f.IntVar(&s.c.MaxConnsAddress, "max-connections-per-address", 8<<10, "of them from one address")
	f.IntVar(&s.c.Parked, "parked-sandboxes", 32, "sandboxes kept ready for functions at least; negative is none")
	return cmd
}

func (o *options) agentStop(s *serverFlags) *cobra.Command {
	return &cobra.Command{
		Use: "stop", Short: "End this machine's node and everything it runs; it may join again", Args: cobra.NoArgs,
		Example: "  sudo faas agent stop", PreRunE: needRoot,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("log-level") {
				s.logLevel = "error" // what happens is said in words
			}
			log, err := s.logger()
			if err != nil {
				return err
			}
			s.c.Log = log
			if err := daemon.Stop(cmd.Context(), s.c, func(format string, a ...any) { say(cmd, format, a...) }); err != nil {
				return fmt.Errorf("stop this machine's node: %w", err)
			}
			return nil
		},
	}
}
