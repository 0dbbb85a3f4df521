package dialect

import "net/http"

func (d *Dialect) logs(w http.ResponseWriter, r *http.Request) error {
	return fault(http.StatusNotImplemented, "logs")
}
