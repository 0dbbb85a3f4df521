package dialect

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/openfaas"
)

func (d *Dialect) info(w http.ResponseWriter, _ *http.Request) error {
	return write(w, d.c.Info)
}

// alert takes Alertmanager's webhook. Scaling does not need it: the autoscaler
// replaces alerts (docs/scaling.md). It is accepted so that an existing
// Alertmanager configuration goes on without errors; an alert about a function
// that does not exist is one, as it would be where alerts scale.
func (d *Dialect) alert(w http.ResponseWriter, r *http.Request) error {
	var in openfaas.Alert
	if err := read(r, &in, false); err != nil {
		return err
	}
	var faults []string
	for i, a := range in.Alerts {
		of := a.Labels["function_name"]
		if err := d.alerted(r, of); err != nil {
			faults = append(faults, fmt.Sprintf("[%d] %v", i, err))
		}
		d.c.Log.Info("alert", slog.String("status", a.Status), slog.String("alert", a.Labels["alertname"]), slog.String("function", short(of)))
	}
	if len(faults) > 0 {
		return fault(http.StatusInternalServerError, "%s", strings.Join(faults, "\n"))
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// alerted is nil when there is the function that an alert is about: NAME or
// NAME.NAMESPACE.
func (d *Dialect) alerted(r *http.Request, of string) error {
	name, ns, ok := strings.Cut(of, ".")
	if !ok {
		ns = api.FunctionNamespace
	}
	if name == "" {
		return errors.New("labels: function_name is missing")
	}
	_, err := d.function(r.Context(), ns, name)
	return err
}

// telemetry: this platform sends none.
func (d *Dialect) telemetry(w http.ResponseWriter, _ *http.Request) error {
	return write(w, struct {
		Enabled bool `json:"enabled"`
	}{})
}
