package async

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
)

// A call that the next version has stored is made by this one, with what it knows
// of it.
func TestCallOfNewerVersion(t *testing.T) {
	b, err := json.Marshal(Call{ID: "x", Method: "POST", Path: "/p"})
	if err != nil {
		t.Fatal(err)
	}
	said := strings.Replace(string(b), `"function":{`, `"ofTheNextVersion":{"some":["thing"]},"function":{"Namespace":"n","Name":"f","More":1},"was":{`, 1)
	h := nats.Header{headerCall: {said}, "Podsnap-Of-The-Next-Version": {"1"}}
	c, err := decode(h, []byte("body"))
	if err != nil || c.ID != "x" || c.Function.Name != "f" || c.Function.Namespace != "n" || c.Path != "/p" || string(c.Body) != "body" {
		t.Errorf("%+v %v, of %s", c, err, said)
	}
}
