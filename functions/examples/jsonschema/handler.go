// Package function checks JSON documents against a JSON Schema.
package function

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

const maxBody = 8 << 20

// request is what the body holds.
type request struct {
	Schema   json.RawMessage `json:"schema"`
	Document json.RawMessage `json:"document"`
}

// fault is one thing that is wrong with a document.
type fault struct {
	At      string `json:"at"` // JSON pointer into the document
	Message string `json:"message"`
}

// Handle answers with 200 when the document is valid, 422 and all faults when
// it is not, and 400 when the schema itself is wrong.
func Handle(w http.ResponseWriter, r *http.Request) {
	var q request
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&q); err != nil {
		http.Error(w, "the body must be {\"schema\": …, \"document\": …}: "+err.Error(), http.StatusBadRequest)
		return
	}
	err := check(q)
	var invalid *jsonschema.ValidationError
	switch {
	case err == nil:
		answer(w, http.StatusOK, map[string]any{"valid": true})
	case errors.As(err, &invalid):
		answer(w, http.StatusUnprocessableEntity, map[string]any{"valid": false, "faults": faults(invalid)})
	default:
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

func check(q request) error {
	schema, err := jsonschema.UnmarshalJSON(strings.NewReader(string(q.Schema)))
	if err != nil {
		return err
	}
	document, err := jsonschema.UnmarshalJSON(strings.NewReader(string(q.Document)))
	if err != nil {
		return err
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	c.UseLoader(jsonschema.SchemeURLLoader{}) // a schema must not make this function fetch anything
	if err := c.AddResource("schema.json", schema); err != nil {
		return err
	}
	s, err := c.Compile("schema.json")
	if err != nil {
		return err
	}
	return s.Validate(document)
}

// faults are the leaves: what stands above them only says that they exist.
func faults(e *jsonschema.ValidationError) []fault {
	if len(e.Causes) == 0 {
		at := "/" + strings.Join(e.InstanceLocation, "/")
		return []fault{{At: at, Message: e.ErrorKind.LocalizedString(message.NewPrinter(language.English))}}
	}
	var out []fault
	for _, c := range e.Causes {
		out = append(out, faults(c)...)
	}
	return out
}

func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v)
}
