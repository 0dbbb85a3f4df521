package rules

import (
	"fmt"

	"github.com/podsnap/podsnap/api"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utiljson "k8s.io/apimachinery/pkg/util/json"
)

// Decode reads an object of the kind from JSON. Field names are case-sensitive,
// unknown fields are dropped, a value of the wrong type is a BadRequest. The
// object has its apiVersion and kind set, whatever data says.
func Decode(r *api.Resource, data []byte) (api.Object, error) {
	obj := r.New()
	if err := utiljson.Unmarshal(data, obj); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", r.Kind, r.Version, r.Kind, err))
	}
	obj.GetObjectKind().SetGroupVersionKind(r.GVK())
	return obj, nil
}
