package join

import (
	"encoding/json"
	"errors"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Reply answers a request with out as JSON; or with err as a Status, a 500 unless it
// is one.
func Reply(w http.ResponseWriter, out any, err error) {
	code := http.StatusOK
	if err != nil {
		st := apierrors.NewInternalError(err).Status()
		var known apierrors.APIStatus
		if errors.As(err, &known) {
			st = known.Status()
		}
		st.Kind, st.APIVersion = "Status", "v1"
		code, out = int(st.Code), st
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(out) // who has gone can't be told
}
