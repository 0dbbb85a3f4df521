package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/podsnap/podsnap/internal/login"
	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

const defaultGateway = "http://127.0.0.1:8080"

// options are the flags that all commands share.
type options struct {
	gateway  string
	output   string
	json     bool // the same as output json
	timeout  time.Duration
	insecure bool
}

// check refuses what no command understands, before anything is done.
func (o *options) check(cmd *cobra.Command) error {
	if o.json {
		if o.output != "" && o.output != "json" {
			return usagef("--json and --output %s exclude one another", o.output)
		}
		o.output = "json"
	}
	if known := formats(cmd); o.output != "" && !slices.Contains(known, o.output) {
		return usagef("output %q: it must be %s", o.output, orList(known))
	}
	if o.timeout < 0 {
		return usagef("--timeout %s: it must not be negative", o.timeout)
	}
	return nil
}

// url is the gateway: flag, stack.yaml, environment, default.
func (o *options) url(stackGateway string) (string, error) {
	g := defaultGateway
	for _, c := range []string{o.gateway, stackGateway, os.Getenv("OPENFAAS_URL")} {
		if c != "" {
			g = c
			break
		}
	}
	if !strings.Contains(g, "://") {
		g = "http://" + g
	}
	u, err := url.Parse(g)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return "", usagef("gateway %q: it must look like %s", g, defaultGateway)
	}
	return strings.TrimSuffix(u.String(), "/"), nil
}

// client talks to the gateway with the credentials of the last login.
func (o *options) client(stackGateway string) (*openfaas.Client, error) {
	g, err := o.url(stackGateway)
	if err != nil {
		return nil, err
	}
	c := &openfaas.Client{URL: g, HTTP: o.http()}
	path, err := login.Path()
	if err != nil {
		return c, nil // no home folder: nobody has logged in
	}
	f, err := login.Load(path)
	if err != nil {
		return nil, err
	}
	c.Token = f.Bearer(g)
	c.User, c.Password, _ = f.Basic(g)
	return c, nil
}

func (o *options) http() *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	if o.insecure {
		t.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // the user asked for it
	}
	return &http.Client{Transport: t}
}

// short bounds a command that should not take long.
func (o *options) short(ctx context.Context) (context.Context, context.CancelFunc) {
	d := o.timeout
	if d == 0 {
		d = time.Minute
	}
	return context.WithTimeout(ctx, d)
}

// long bounds a command only when the user asked for it.
func (o *options) long(ctx context.Context) (context.Context, context.CancelFunc) {
	if o.timeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, o.timeout)
}

// explain adds the remedy to faults that have a usual one.
func (o *options) explain(err error, c *openfaas.Client) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no gateway answers at %s. Start the platform with `make up` (or `faas server`), or name another with --gateway: %w", c.URL, err)
	case openfaas.StatusOf(err) == http.StatusUnauthorized:
		return fmt.Errorf("%w. Log in with `faas login --gateway %s`", err, c.URL)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s did not answer in time; --timeout gives it longer: %w", c.URL, err)
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("the certificate of %s can't be trusted; --tls-no-verify does without that check: %w", c.URL, err)
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok && e.IsNotFound {
		return fmt.Errorf("there is no host %s; name another gateway with --gateway: %w", e.Name, err)
	}
	return err
}

// print writes v as the user asked: JSON, YAML or by text.
func (o *options) print(w io.Writer, v any, text func(io.Writer)) error {
	switch o.output {
	case "json":
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(v)
	case "yaml":
		b, err := yaml.Marshal(v)
		if err != nil {
			return err
		}
		_, err = w.Write(b)
		return err
	default:
		t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
		text(t)
		return t.Flush()
	}
}

// say tells the user what happened; it goes to standard error, so that
// standard output is only data.
func say(c *cobra.Command, format string, a ...any) {
	fmt.Fprintf(c.ErrOrStderr(), format+"\n", a...)
}

// keyValues reads repeated "key=value" flags.
func keyValues(flag string, in []string) (map[string]string, error) {
	if len(in) == 0 {
		return nil, nil
	}
	out := make(map[string]string, len(in))
	for _, kv := range in {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			return nil, usagef("--%s %q: it must be key=value", flag, kv)
		}
		out[k] = v
	}
	return out, nil
}
