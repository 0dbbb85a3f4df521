package main

import (
	"context"
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
	cmd.Flags().StringVar(&d.image, "image", "", "image of the one function to deploy")
	cmd.Flags().StringVar(&d.name, "name", "", "name of the one function to deploy")
	cmd.Flags().StringVar(&d.process, "fprocess", "", "process that the watchdog runs")
	return cmd
}

// deploy sends one function and says where it can be called.
func (o *options) deploy(ctx context.Context, cmd *cobra.Command, c *openfaas.Client, d *deployFlags, f openfaas.FunctionDeployment) error {
	start := time.Now()
	verb := "deployed"
	var err error
	switch {
	case d.replace:
		if err = c.Delete(ctx, f.Namespace, f.Service); err == nil || openfaas.IsNotFound(err) {
			err = o.createWhenGone(ctx, c, f)
		}
	case d.update:
		var created bool
		if created, err = c.Deploy(ctx, f); !created {
			verb = "updated"
		}
	default:
		err = c.Create(ctx, f)
	}
	if openfaas.IsConflict(err) && !d.update {
		return fmt.Errorf("%w; without --update=false it is updated", err)
	}
	if err != nil {
		return o.explain(err, c)
	}
	say(cmd, "%s %s in %d ms: %s/function/%s%s", verb, f.Service, time.Since(start).Milliseconds(), c.URL, f.Service, suffix(f.Namespace))
	return nil
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
