package main

import (
	"fmt"
	"io"
	"net/http"
	"runtime"
	"runtime/debug"

	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/spf13/cobra"
)

// release is set by the build: -ldflags "-X main.release=v1.2.3 -X main.commit=…".
var release, commit string

func version() string {
	if release != "" {
		return release
	}
	return "dev"
}

func revision() string {
	if commit != "" {
		return commit
	}
	if b, ok := debug.ReadBuildInfo(); ok {
		for _, s := range b.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}

type versions struct {
	Client  openfaas.Version `json:"client"`
	Gateway *openfaas.Info   `json:"gateway,omitempty"`
}

func (o *options) versionCmd() *cobra.Command {
	var short, clientOnly bool
	cmd := &cobra.Command{
		Use: "version", Short: "Show the versions of this tool and of the gateway", Args: cobra.NoArgs,
		Example: "  faas version\n  faas version --client\n  faas version -o json | jq -r .gateway.version.release",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := o.short(cmd.Context())
			defer cancel()
			if short {
				fmt.Fprintln(cmd.OutOrStdout(), version())
				return nil
			}
			v := versions{Client: openfaas.Version{Release: version(), SHA: revision()}}
			c, err := o.client("")
			if err != nil {
				return err
			}
			var fault error
			if !clientOnly {
				v.Gateway, fault = c.Info(ctx)
			}
			return o.print(cmd.OutOrStdout(), v, func(w io.Writer) {
				fmt.Fprintf(w, "Client:\t%s (%s, %s, %s/%s)\n", v.Client.Release, v.Client.SHA, runtime.Version(), runtime.GOOS, runtime.GOARCH)
				switch {
				case v.Gateway != nil:
					fmt.Fprintf(w, "Gateway:\t%s (%s) at %s\n", v.Gateway.Version.Release, v.Gateway.Version.SHA, c.URL)
					fmt.Fprintf(w, "Provider:\t%s, %s, %s\n", v.Gateway.Provider.Name, v.Gateway.Provider.Orchestration, v.Gateway.Arch)
				case fault != nil:
					say(cmd, "gateway: %v", o.explain(fault, c))
				}
			})
		},
	}
	cmd.Flags().BoolVar(&short, "short-version", false, "only this tool's version")
	cmd.Flags().BoolVar(&clientOnly, "client", false, "do not ask the gateway")
	return cmd
}

type platformStatus struct {
	Gateway   string `json:"gateway"`
	Healthy   bool   `json:"healthy"`
	Version   string `json:"version,omitempty"`
	Functions int    `json:"functions"`
	Replicas  uint64 `json:"replicas"`
	Ready     uint64 `json:"ready"`
	Problem   string `json:"problem,omitempty"`
}

func (o *options) statusCmd() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show whether the platform works, and what runs on it", Args: cobra.NoArgs,
		Long:    "Asks the gateway. The exit code is 0 only when it is healthy.",
		Example: "  faas status\n  faas status -o json | jq .ready",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := o.short(cmd.Context())
			defer cancel()
			c, err := o.client("")
			if err != nil {
				return err
			}
			s := platformStatus{Gateway: c.URL}
			fault := c.Healthz(ctx)
			s.Healthy = fault == nil
			if fault == nil {
				var info *openfaas.Info
				if info, fault = c.Info(ctx); fault == nil {
					s.Version = info.Version.Release
				}
			}
			if fault == nil {
				var names []string
				names, fault = c.Namespaces(ctx)
				for _, ns := range names {
					var fns []openfaas.FunctionStatus
					if fns, fault = c.Functions(ctx, ns); fault != nil {
						break
					}
					s.Functions += len(fns)
					for _, f := range fns {
						s.Replicas += f.Replicas
						s.Ready += f.AvailableReplicas
					}
				}
			}
			if fault != nil {
				fault = o.explain(fault, c)
				s.Problem = fault.Error()
			}
			if err := o.print(cmd.OutOrStdout(), s, func(w io.Writer) {
				state := "healthy"
				if !s.Healthy {
					state = http.StatusText(http.StatusServiceUnavailable)
				}
				fmt.Fprintf(w, "Gateway:\t%s, %s\n", s.Gateway, state)
				if s.Version != "" {
					fmt.Fprintf(w, "Version:\t%s\n", s.Version)
					fmt.Fprintf(w, "Functions:\t%d, with %d of %d replicas ready\n", s.Functions, s.Ready, s.Replicas)
				}
			}); err != nil {
				return err
			}
			return fault
		},
	}
}
