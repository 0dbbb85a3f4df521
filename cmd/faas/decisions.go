package main

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/openfaas"
)

// described is a function with why it has as many replicas as it has.
type described struct {
	*openfaas.FunctionStatus
	Decisions []api.ScaleDecision `json:"decisions,omitempty"`
}

// notKnownThere reports whether a gateway has no decisions to tell: another one
// that speaks the same API.
func notKnownThere(err error) bool {
	status := openfaas.StatusOf(err)
	return status == http.StatusNotFound || status == http.StatusMethodNotAllowed || status == http.StatusNotImplemented
}

// shown is how many decisions are shown without -o wide.
const shown = 5

// decisions writes a table of them, the newest first.
func (o *options) decisions(w io.Writer, all []api.ScaleDecision) {
	if len(all) == 0 {
		return
	}
	last := all[len(all)-1]
	fmt.Fprintf(w, "Why %s:\t%s\n", count(last.To, "replica"), last.Reason)
	if k := last.Idle; k.KeepAliveSeconds > 0 {
		keep := fmt.Sprintf("%s without a request (%s)", seconds(k.KeepAliveSeconds), k.From)
		if k.PrewarmSeconds > 0 {
			keep += fmt.Sprintf(", and there again after %s to %s", seconds(k.PrewarmSeconds), seconds(k.PrewarmUntilSeconds))
		}
		fmt.Fprintf(w, "Last replica stays:\t%s\n", keep)
	}
	wide := o.output == "wide"
	fmt.Fprint(w, "\nDECIDED\tREPLICAS\tRULE\tREASON")
	if wide {
		fmt.Fprint(w, "\tINPUTS\tWISHES\tIDLE TIER")
	}
	fmt.Fprintln(w)
	for i := len(all) - 1; i >= 0 && (wide || i >= len(all)-shown); i-- {
		d := all[i]
		fmt.Fprintf(w, "%s\t%s\t%s\t%s", d.Time.Format(time.RFC3339), change(d), d.Rule, d.Reason)
		if wide {
			fmt.Fprintf(w, "\t%s\t%s\t%s", inputs(d.Inputs), wishes(d.Wishes), d.Idle.Tier)
		}
		fmt.Fprintln(w)
	}
}

func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second)).Round(100 * time.Millisecond)
}

func change(d api.ScaleDecision) string {
	if d.From != d.To {
		return fmt.Sprintf("%d → %d", d.From, d.To)
	}
	if d.Repeated > 0 {
		return fmt.Sprintf("%d (%d times)", d.To, d.Repeated+1)
	}
	return fmt.Sprint(d.To)
}

func inputs(in api.ScaleInputs) string {
	out := []string{fmt.Sprintf("%d..%d", in.Min, in.Max), fmt.Sprintf("%d ready", in.Ready), fmt.Sprintf("%d queued", in.Queued), fmt.Sprintf("%d in flight", in.InFlight)}
	if in.Pending > 0 {
		out = append(out, fmt.Sprintf("%d pending", in.Pending))
	}
	if in.Rate > 0 {
		out = append(out, fmt.Sprintf("%.3g/s", in.Rate))
	}
	if in.CPUReplicas > 0 {
		out = append(out, fmt.Sprintf("%.3gm cpu each of %d", in.CPU, in.CPUReplicas))
	}
	if in.IdleSeconds > 0 {
		out = append(out, fmt.Sprintf("idle %s", seconds(in.IdleSeconds)))
	}
	return strings.Join(out, ", ")
}

func wishes(ws []api.ScaleWish) string {
	out := make([]string, 0, len(ws))
	for _, w := range ws {
		out = append(out, fmt.Sprintf("%s %d", w.Measure, w.Replicas))
	}
	return strings.Join(out, ", ")
}

// count is a number of things that are called one: "1 replica", "2 replicas".
func count(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + one + "s"
}
