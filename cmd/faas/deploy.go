package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// deployFlags are what a function may be given on the command line, beside or
// instead of its entry in stack.yaml.
type deployFlags struct {
	image, name, process, namespace string
	env, labels, annotations        []string
	secrets, constraints            []string
	cpuLimit, memoryLimit           string
	cpuRequest, memoryRequest       string
	readOnly, update, replace       bool
	noWait                          bool
	waitTimeout                     time.Duration
}

func (d *deployFlags) add(f *pflag.FlagSet) {
	f.StringVarP(&d.namespace, "namespace", "n", "", "namespace")
	f.StringArrayVarP(&d.env, "env", "e", nil, "environment variable KEY=value, may be repeated")
	f.StringArrayVarP(&d.labels, "label", "l", nil, "label key=value, may be repeated")
	f.StringArrayVar(&d.annotations, "annotation", nil, "annotation key=value, may be repeated")
	f.StringArrayVar(&d.secrets, "secret", nil, "name of a secret, may be repeated")
	f.StringArrayVar(&d.constraints, "constraint", nil, "node label key=value, may be repeated")
	f.StringVar(&d.cpuLimit, "cpu-limit", "", "most CPU, such as 500m")
	f.StringVar(&d.memoryLimit, "memory-limit", "", "most memory, such as 128Mi")
	f.StringVar(&d.cpuRequest, "cpu-request", "", "reserved CPU")
	f.StringVar(&d.memoryRequest, "memory-request", "", "reserved memory")
	f.BoolVar(&d.readOnly, "readonly", false, "read-only root file system")
	f.BoolVar(&d.update, "update", true, "update a function that exists")
	f.BoolVar(&d.replace, "replace", false, "remove a function that exists first")
	f.BoolVar(&d.noWait, "no-wait", false, "do not wait until an update is what serves")
	f.DurationVar(&d.waitTimeout, "wait-timeout", time.Minute, "longest wait for an update")
}

// over puts what the flags say over a deployment.
func (d *deployFlags) over(out *openfaas.FunctionDeployment) error {
	for _, kv := range []struct {
		flag string
		in   []string
		to   *map[string]string
	}{{"env", d.env, &out.EnvVars}, {"label", d.labels, &out.Labels}, {"annotation", d.annotations, &out.Annotations}} {
		m, err := keyValues(kv.flag, kv.in)
		if err != nil {
			return err
		}
		for k, v := range m {
			if *kv.to == nil {
				*kv.to = map[string]string{}
			}
			(*kv.to)[k] = v
		}
	}
	out.Secrets = append(out.Secrets, d.secrets...)
	out.Constraints = append(out.Constraints, d.constraints...)
	set := func(to *string, v string) {
		if v != "" {
			*to = v
		}
	}
	set(&out.Namespace, d.namespace)
	set(&out.EnvProcess, d.process)
	limit := func(to **openfaas.Resources, cpu, memory string) {
		if cpu == "" && memory == "" {
			return
		}
		if *to == nil {
			*to = &openfaas.Resources{}
		}
		set(&(*to).CPU, cpu)
		set(&(*to).Memory, memory)
	}
	limit(&out.Limits, d.cpuLimit, d.memoryLimit)
	limit(&out.Requests, d.cpuRequest, d.memoryRequest)
	out.ReadOnlyRootFilesystem = out.ReadOnlyRootFilesystem || d.readOnly
	return nil
}

func (o *options) deployCmd() *cobra.Command {
	d := &deployFlags{}
	s := &stackArgs{}
	cmd := &cobra.Command{
		Use: "deploy", Short: "Deploy functions from stack.yaml, or one from an image",
		Example: "  faas deploy\n  faas deploy -f stack.yaml --filter 'img*'\n  faas deploy --name hello --image hello:latest -e GREETING=hi",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := o.long(cmd.Context())
			defer cancel()
			if d.image != "" || d.name != "" {
				if d.image == "" || d.name == "" {
					return usagef("--image and --name go together")
				}
				c, err := o.client("")
				if err != nil {
					return err
				}
				out := openfaas.FunctionDeployment{Service: d.name, Image: d.image}
				if err := d.over(&out); err != nil {
					return err
				}
				return o.deploy(ctx, cmd, c, d, out)
			}
			work, err := s.load()
			if err != nil {
				return err
			}
			return o.deployAll(ctx, cmd, work, d)
		},
	}
	d.add(cmd.Flags())
	s.add(cmd.Flags())
	tagFlag(cmd.Flags())
	cmd.Flags().StringVar(&d.image, "image", "", "image of the one function to deploy")
	cmd.Flags().StringVar(&d.name, "name", "", "name of the one function to deploy")
	cmd.Flags().StringVar(&d.process, "fprocess", "", "process that the watchdog runs")
	return cmd
}

// sent is a function that the gateway has taken.
type sent struct {
	openfaas.FunctionDeployment
	updated bool // it was there before
	start   time.Time
}

// deploy sends functions, then waits until those that were there before are
// what serves. All are sent first: they roll out side by side.
func (o *options) deploy(ctx context.Context, cmd *cobra.Command, c *openfaas.Client, d *deployFlags, fns ...openfaas.FunctionDeployment) error {
	var waiting []sent
	for _, f := range fns {
		s, err := o.send(ctx, c, d, f)
		if err != nil {
			return err
		}
		if s.updated && !d.noWait {
			waiting = append(waiting, s)
			continue
		}
		sayDeployed(cmd, c, s)
	}
	var faults []error
	for _, s := range waiting {
		if err := o.arrive(ctx, cmd, c, s.FunctionDeployment, d.waitTimeout); err != nil {
			faults = append(faults, err)
			continue
		}
		sayDeployed(cmd, c, s)
	}
	return errors.Join(faults...)
}

func sayDeployed(cmd *cobra.Command, c *openfaas.Client, s sent) {
	verb := "deployed"
	if s.updated {
		verb = "updated"
	}
	say(cmd, "%s %s in %d ms: %s/function/%s%s", verb, s.Service, time.Since(s.start).Milliseconds(), c.URL, s.Service, suffix(s.Namespace))
}

func (o *options) send(ctx context.Context, c *openfaas.Client, d *deployFlags, f openfaas.FunctionDeployment) (sent, error) {
	s := sent{FunctionDeployment: f, start: time.Now()}
	var err error
	switch {
	case d.replace:
		if err = c.Delete(ctx, f.Namespace, f.Service); err == nil || openfaas.IsNotFound(err) {
			err = o.createWhenGone(ctx, c, f)
		}
	case d.update:
		var created bool
		created, err = c.Deploy(ctx, f)
		s.updated = !created
	default:
		err = c.Create(ctx, f)
	}
	if openfaas.IsConflict(err) && !d.update {
		return s, fmt.Errorf("%w; without --update=false it is updated", err)
	}
	return s, o.explain(err, c)
}

// createWhenGone creates a function as soon as the one that was removed is
// gone.
func (o *options) createWhenGone(ctx context.Context, c *openfaas.Client, f openfaas.FunctionDeployment) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, fmt.Errorf("%s is still being removed", f.Service))
	defer cancel()
	for {
		err := c.Create(ctx, f)
		if !openfaas.IsConflict(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
