package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/podsnap/podsnap/internal/daemon"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// serverFlags are the flags of `faas server` and its verbs.
type serverFlags struct {
	c        daemon.Config
	logLevel string
	logJSON  bool
}

func (s *serverFlags) add(f *pflag.FlagSet) {
	s.addPlace(f)
	s.addNode(f)
	f.StringVar(&s.c.APIListen, "api-listen", "127.0.0.1:6443", "address of the Kubernetes API")
	f.StringVar(&s.c.TLSListen, "tls-listen", "", "address of the gateway for TLS, with the certificates of Ingresses, such as 0.0.0.0:443 (default: none)")
	f.StringSliceVar(&s.c.Etcd, "etcd", nil, "endpoints of an external etcd, such as http://10.0.0.1:2379 (default: embedded)")
	f.StringVar(&s.c.EtcdPrefix, "etcd-prefix", "/registry", "prefix of all keys in etcd")
	f.StringVar(&s.c.EtcdCA, "etcd-ca", "", "PEM `file` of the external etcd's authority (default: those that the machine trusts)")
	f.StringVar(&s.c.EtcdCert, "etcd-cert", "", "PEM `file` of the certificate to show to it")
	f.StringVar(&s.c.EtcdKey, "etcd-key", "", "PEM `file` of that certificate's key")
	f.StringVar(&s.c.NATSCA, "nats-ca", "", "PEM `file` of the external NATS' authority (default: those that the machine trusts)")
	f.StringVar(&s.c.NATSCreds, "nats-creds", "", "`file` of the credentials for it (default: what the URL says)")
	f.StringVar(&s.c.NATS, "nats", "", "URL of an external NATS with JetStream, such as nats://10.0.0.1:4222 (default: embedded)")
	f.StringSliceVar(&s.c.Servers, "servers", nil, "addresses of three servers that keep their stores together, the same list on each")
	f.StringVar(&s.c.ServerToken, "server-token", "", "what all servers of a cluster have in common, from `faas server token`")
	f.StringVar(&s.c.Beside, "join", "", "URL of a server whose cluster this one becomes a server of, in the place of one that was removed or as one more")
	f.IntVar(&s.c.NATSCopies, "nats-copies", 1, "how many servers of an external NATS cluster keep each asynchronous call")
	f.StringVar(&s.c.PodCIDR, "pod-cidr", "", "addresses of pods on this node, of IPv4 or of IPv4,IPv6 (default: a free part of --cluster-cidr)")
	f.StringVar(&s.c.ClusterCIDR, "cluster-cidr", "", "addresses of pods on all nodes; two families are 10.62.0.0/16,fd62::/56 (default: --pod-cidr, or 10.62.0.0/16)")
	f.StringVar(&s.c.ServiceCIDR, "service-cidr", "10.96.0.0/16", "addresses of Services; two families are 10.96.0.0/16,fd96::/112")
	f.BoolVar(&s.c.NoAuth, "no-auth", false, "let anybody who reaches the gateway manage functions")
	f.Int64Var(&s.c.MaxAsyncBody, "max-async-body", 1<<20, "largest body of an asynchronous call, bytes")
}

// addPlace adds where what runs keeps things, and how it says what happens.
func (s *serverFlags) addPlace(f *pflag.FlagSet) {
	f.StringVar(&s.c.StateDir, "state-dir", defaultStateDir(), "where everything that must last is kept")
	f.StringVar(&s.c.RunDir, "run-dir", "", "where sockets are (default: below /run, by the state directory)")
	f.StringVar(&s.c.Containerd, "containerd", "", "socket of a containerd that runs already (default: one of the platform's own)")
	f.StringVar(&s.logLevel, "log-level", "info", "debug, info, warn or error")
	f.BoolVar(&s.logJSON, "log-json", false, "log as JSON")
}

// addNode adds what is said of every machine that runs functions.
func (s *serverFlags) addNode(f *pflag.FlagSet) {
	f.StringVar(&s.c.Listen, "listen", "127.0.0.1:8080", "address of the gateway")
	f.StringVar(&s.c.MetricsListen, "metrics-listen", "127.0.0.1:8082", "address of the metrics")
	f.StringVar(&s.c.AgentListen, "agent-listen", "0.0.0.0:10250", "address at which servers ask this node (of a server: the others, if there may be any)")
	f.StringVar(&s.c.NodeName, "node-name", "", "name of this node (default: the host's)")
	f.StringVar(&s.c.PodManifestPath, "pod-manifest-path", "", "`directory` of static pods: this machine runs what its files say, server or none (default: manifests in the state directory, if that is there)")
	f.StringVar(&s.c.NodeIP, "node-ip", "", "address at which other machines reach this one (default: a server's first, a node's towards its server)")
	f.DurationVar(&s.c.Timeout, "timeout", time.Minute, "longest time of an invocation, unless the function says otherwise")
	f.Int64Var(&s.c.MaxBody, "max-body", 256<<20, "largest body of a call, bytes")
	f.IntVar(&s.c.MaxConns, "max-connections", 16<<10, "connections of clients to the gateway at a time")
	f.IntVar(&s.c.MaxConnsAddress, "max-connections-per-address", 8<<10, "of them from one address; raise it to the above behind a load balancer")
	f.BoolVar(&s.c.NoAwake, "no-awake", false, "let idle processors halt while calls come densely: saves power, and costs each call some wake-ups")
	f.IntVar(&s.c.Parked, "parked-sandboxes", 32, "sandboxes kept ready for functions at least; negative is none, so that every cold start makes its own")
}

// run runs a server or a node until the command ends: by ctrl-C with all that it
// has started.
func (s *serverFlags) run(cmd *cobra.Command, log *slog.Logger) error {
	s.c.Log, s.c.Version, s.c.Revision = log, version(), revision()
	s.c.TearDown = func() bool {
		i, ok := errors.AsType[*interrupted](context.Cause(cmd.Context()))
		return ok && i.Signal == os.Interrupt
	}
	return daemon.Run(cmd.Context(), s.c)
}

// fromEnvironment sets the flags that were not given from PODSNAP_<FLAG>.
func fromEnvironment(f *pflag.FlagSet) error {
	var fault error
	f.VisitAll(func(fl *pflag.Flag) {
		name := "PODSNAP_" + strings.ToUpper(strings.ReplaceAll(fl.Name, "-", "_"))
		v, ok := os.LookupEnv(name)
		if !ok || fl.Changed || fault != nil {
			return
		}
		if err := f.Set(fl.Name, v); err != nil {
			fault = usagef("%s=%q: %w", name, v, err)
		}
	})
	return fault
}

func (s *serverFlags) logger() (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(s.logLevel)); err != nil {
		return nil, usagef("--log-level %q: it must be debug, info, warn or error", s.logLevel)
	}
	o := &slog.HandlerOptions{Level: l}
	if s.logJSON {
		return slog.New(slog.NewJSONHandler(os.Stderr, o)), nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, o)), nil
}

func (o *options) serverCmd() *cobra.Command {
	s := &serverFlags{}
	cmd := &cobra.Command{
		Use: "server", Short: "Run the platform on this machine",
		Long: `Runs the whole platform in the foreground: gateway, control plane and node
agent, with etcd, NATS and containerd as children. Every flag may also come from
the environment: --state-dir as PODSNAP_STATE_DIR.

On SIGTERM the platform ends and the functions' containers go on, to be adopted
by the next start. Ctrl-C, and ` + "`faas server stop`" + `, end the containers too and
leave nothing on the machine but the state directory.

Three servers of which one leads and two stand by are started with the same
--servers and --server-token on each; or, over an etcd and a NATS of your own, with
the same --etcd, --nats and --server-token. Any of them serves everything.

A server that is lost with its disk is replaced while the others serve: take it out
with ` + "`faas server remove`" + `, then start another one with --join and the cluster's
--server-token.`,
		Example: `  faas server
  faas server --listen 0.0.0.0:8080 --etcd http://10.0.0.1:2379,http://10.0.0.2:2379
  faas server --servers 10.0.0.1,10.0.0.2,10.0.0.3 --server-token S1… --api-listen 0.0.0.0:6443
  faas server start      # in the background
  faas server stop`,
		Args:    cobra.NoArgs,
		PreRunE: needRoot,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := s.logger()
			if err != nil {
				return err
			}
			return s.run(cmd, log)
		},
	}
	s.add(cmd.PersistentFlags())
	cmd.AddCommand(o.serverStart(s, cmd), o.serverStop(s, cmd), serverToken(), o.serverList(), o.serverRemove())
	return cmd
}

func serverToken() *cobra.Command {
	return &cobra.Command{
		Use: "token", Short: "Print a new token for servers to share", Args: cobra.NoArgs,
		Long: `Prints what the servers of one cluster have in common: all their passwords and the
cluster's certificate authority come from it, so it is as secret as these. Give the
same one to each server at its first start, with --server-token or in the variable
PODSNAP_SERVER_TOKEN; a server keeps it. Machines that are to be nodes need another
one, of ` + "`faas token create`" + `.`,
		Example: "  faas server token > server-token\n  sudo PODSNAP_SERVER_TOKEN=$(cat server-token) faas server --servers 10.0.0.1,10.0.0.2,10.0.0.3 --api-listen 0.0.0.0:6443",
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), daemon.ServerToken())
			return err
		},
	}
}

func (o *options) serverStop(s *serverFlags, parent *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "stop", Short: "End the platform and everything it runs; the state directory stays", Args: cobra.NoArgs,
		Example: "  sudo faas server stop",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := parent.PreRunE(cmd, nil); err != nil {
				return err
			}
			return s.stop(cmd)
		},
	}
}

// stop ends what runs on the state directory, a server or a node.
func (s *serverFlags) stop(cmd *cobra.Command) error {
	if !cmd.Flags().Changed("log-level") {
		s.logLevel = "error" // what happens is said in words
	}
	log, err := s.logger()
	if err != nil {
		return err
	}
	s.c.Log = log
	return daemon.Stop(cmd.Context(), s.c, func(format string, a ...any) { say(cmd, format, a...) })
}

// storeChildCmd is how the platform starts itself as its store.
func (o *options) storeChildCmd() *cobra.Command {
	return &cobra.Command{
		Use: daemon.StoreVerb, Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return daemon.RunStore(cmd.Context()) },
	}
}

func healthy(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/healthz", nil)
	if err != nil {
		return false
	}
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{}).DialContext}}
	resp, err := c.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// tailOf is the last n lines of a file, for an error message.
func tailOf(path string, n int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
