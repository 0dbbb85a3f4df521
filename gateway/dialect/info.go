package dialect

import (
	"log/slog"
	"net/http"

	"github.com/podsnap/podsnap/internal/openfaas"
)

func (d *Dialect) info(w http.ResponseWriter, _ *http.Request) error {
	return write(w, d.c.Info)
}

// alert takes Alertmanager's webhook. Scaling does not need it: the gateway
// reports demand itself. It is accepted so that an existing Alertmanager
// configuration goes on without errors.
func (d *Dialect) alert(w http.ResponseWriter, r *http.Request) error {
	var in openfaas.Alert
	if err := read(r, &in, false); err != nil {
		return err
	}
	for _, a := range in.Alerts {
		d.c.Log.Info("alert", slog.String("status", a.Status), slog.String("alert", a.Labels["alertname"]), slog.String("function", a.Labels["function_name"]))
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// telemetry: this platform sends none.
func (d *Dialect) telemetry(w http.ResponseWriter, _ *http.Request) error {
	return write(w, struct {
		Enabled bool `json:"enabled"`
	}{})
}
