package dialect

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"

	"github.com/podsnap/podsnap/api"
	"k8s.io/apimachinery/pkg/util/validation"
)

const (
	maxBody   = 2 << 20 // of a request to /system
	maxSecret = 1 << 20 // of a secret's value
)

// read decodes the body into out. An empty body is an error unless optional.
// Fields that are not known are ignored: older and newer clients send some.
func read(r *http.Request, out any, optional bool) error {
	b, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	switch {
	case err != nil:
		return badRequest("the request's body can't be read: %v", err)
	case len(b) > maxBody:
		return fault(http.StatusRequestEntityTooLarge, "the request's body is larger than %d bytes", maxBody)
	case len(strings.TrimSpace(string(b))) == 0 && optional:
		return nil
	case len(strings.TrimSpace(string(b))) == 0:
		return badRequest("the request has no body: send JSON")
	}
	if err := json.Unmarshal(b, out); err != nil {
		return badRequest("the request's body is not valid: %s", jsonFault(err))
	}
	return nil
}

func jsonFault(err error) string {
	if t, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		at := t.Field
		if at == "" {
			at = "the body"
		}
		return fmt.Sprintf("%s: got a JSON %s, want %s", at, t.Value, kindName(t.Type))
	}
	if s, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Sprintf("bad JSON at byte %d: %v", s.Offset, s)
	}
	return err.Error()
}

func kindName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Uint64, reflect.Int64, reflect.Int:
		return "a whole number of 0 or more"
	case reflect.Map, reflect.Struct:
		return "an object"
	case reflect.Slice:
		return "a list"
	case reflect.Pointer:
		return kindName(t.Elem())
	default:
		return t.String()
	}
}

// write answers with v, as JSON.
func write(w http.ResponseWriter, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b) // nobody to tell when the client is gone
	return nil
}

// namespaceOf is the namespace that a request means: the body's or the query's.
func namespaceOf(r *http.Request, inBody string) (string, error) {
	ns := inBody
	q := r.URL.Query().Get("namespace")
	switch {
	case ns == "":
		ns = q
	case q != "" && q != ns:
		return "", badRequest("namespace: the body says %q, the query says %q", short(ns), short(q))
	}
	if ns == "" {
		return api.FunctionNamespace, nil
	}
	if msgs := validation.IsDNS1123Label(ns); len(msgs) > 0 {
		return "", badRequest("namespace: %q: %s", short(ns), msgs[0])
	}
	return ns, nil
}

func functionName(name string) error {
	if msgs := validation.IsDNS1123Label(name); len(msgs) > 0 {
		return badRequest("function name %q: %s", short(name), msgs[0])
	}
	return nil
}
