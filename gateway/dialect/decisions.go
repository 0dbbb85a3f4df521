package dialect

import (
	"net/http"

	"github.com/go-chi/chi/v5"
	"github.com/podsnap/podsnap/api"
	"k8s.io/apimachinery/pkg/types"
)

// decisions tells why a function has as many replicas as it has. It is an
// addition to the API.
func (d *Dialect) decisions(w http.ResponseWriter, r *http.Request) error {
	ns, err := d.functionNamespace(r, "")
	if err != nil {
		return err
	}
	f, err := d.function(r.Context(), ns, chi.URLParam(r, "name"))
	if err != nil {
		return err
	}
	if d.c.Decisions == nil {
		return fault(http.StatusNotImplemented, "this gateway does not know why functions are scaled")
	}
	out, err := d.c.Decisions(r.Context(), types.NamespacedName{Namespace: ns, Name: f.Name})
	if err != nil {
		return err
	}
	if out == nil {
		out = []api.ScaleDecision{}
	}
	return write(w, out)
}
