package main

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/spf13/cobra"
)

// Of the wait for an update.
const (
	firstLook = 20 * time.Millisecond // a small function is there within some of these
	mostLook  = time.Second
	patience  = 5 * time.Second // with a fault that may yet pass: a registry that is restarted, one crash
)

// rollout judges an update by looks at the function.
type rollout struct {
	reason string    // of the fault that stands in the way; "" none
	since  time.Time // when it was seen first
}

// look takes in a look. An update has arrived when it is what serves; it has
// failed when one fault has stayed for as long as patience lasts.
func (r *rollout) look(f *openfaas.FunctionStatus, now time.Time) (arrived, failed bool) {
	if !f.Updating {
		return true, false
	}
	reason := f.Reason
	if reason == starting {
		reason = ""
	}
	if reason != r.reason {
		r.reason, r.since = reason, now
	}
	return false, reason != "" && now.Sub(r.since) >= patience
}

// arrive waits until the last deployment of a function is what serves. A
// gateway that knows nothing of updates is not waited for.
func (o *options) arrive(ctx context.Context, cmd *cobra.Command, c *openfaas.Client, d openfaas.FunctionDeployment, most time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	var (
		r    rollout
		last *openfaas.FunctionStatus // nil: none was had
	)
	for pause := firstLook; ; pause = min(pause*3/2, mostLook) {
		f, err := c.Function(ctx, d.Namespace, d.Service, false)
		switch status := openfaas.StatusOf(err); {
		case err == nil:
			arrived, failed := r.look(f, time.Now())
			switch {
			case arrived:
				return nil
			case failed:
				return notArrived(f, d.Namespace, nil)
			case last == nil:
				say(cmd, "%s: waiting until the new version is what serves (--no-wait does not)", d.Service)
			}
			last = f
		case status >= 400 && status < 500: // asking again changes nothing
			return o.explain(notFound(err, d.Service, d.Namespace), c)
		}
		select {
		case <-ctx.Done():
			if last == nil {
				return o.explain(fmt.Errorf("wait for %s: %w", d.Service, err), c)
			}
			return notArrived(last, d.Namespace, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

// notArrived says why the new version of a function does not serve.
func notArrived(f *openfaas.FunctionStatus, ns string, cause error) error {
	why := "its replicas are not ready yet"
	if f.Reason != "" && f.Reason != starting {
		why = f.Reason
		if f.Message != "" {
			why += ": " + f.Message
		}
	}
	serves := "nothing serves"
	if f.AvailableReplicas > 0 {
		serves = "the version before still serves"
	}
	err := fmt.Errorf("%s is stored, but the new version does not come up, and %s: %s. What to do: %s", f.Name, serves, why, cmp.Or(remedy(f, ns), "`faas describe "+f.Name+inNamespace(ns)+"` shows more"))
	if cause != nil {
		err = fmt.Errorf("%w (%w)", err, cause)
	}
	return err
}
