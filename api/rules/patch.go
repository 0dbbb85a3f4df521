package rules

import (
	"encoding/json"
	"fmt"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"github.com/podsnap/podsnap/api"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// HTTP's codes for two reasons that apierrors has no constructor for. Package
// net/http is not asked: what decides must not be able to do.
const (
	codeUnsupportedMediaType = 415
	codeInvalid              = 422
)

// Bounds of a patch.
const (
	// MaxPatchBytes is the longest patch, and the longest object that one may make.
	MaxPatchBytes = 3 << 20
	// MaxPatchOps is the most operations of a JSON patch.
	MaxPatchOps = 10_000
)

// Patch applies p to a copy of old. What comes out is what a client would have
// sent as an update; it still has to go through Update, with p's subresource.
//
// Errors: BadRequest for a patch that is malformed, too long or makes an
// object of a wrong type, or that changes the name; Invalid when it does not
// fit the object (a path that is not there, a failed test);
// UnsupportedMediaType for another type.
func Patch(old api.Object, p api.Patch) (api.Object, error) { return PatchWith(old, p, Decode) }

// PatchWith is Patch for who reads the patched object in a way of its own.
func PatchWith(old api.Object, p api.Patch, decode func(r *api.Resource, doc []byte) (api.Object, error)) (api.Object, error) {
	return PatchAs(api.ResourceOf(old), old, p, decode)
}

// PatchAs is PatchWith for an object in another version than the stored one.
func PatchAs(r *api.Resource, old api.Object, p api.Patch, decode func(r *api.Resource, doc []byte) (api.Object, error)) (api.Object, error) {
	if len(p.Data) > MaxPatchBytes {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("the patch has %d bytes, at most %d are allowed", len(p.Data), MaxPatchBytes))
	}
	doc, err := json.Marshal(old)
	if err != nil {
		return nil, fmt.Errorf("encode %s %s: %w", r, old.GetName(), err)
	}
	doc, err = apply(r, doc, p)
	if err != nil {
		return nil, err
	}
	if len(doc) > MaxPatchBytes {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("the patched object has %d bytes, at most %d are allowed", len(doc), MaxPatchBytes))
	}
	next, err := decode(r, doc)
	if err != nil {
		return nil, err
	}
	if next.GetName() != old.GetName() || next.GetNamespace() != old.GetNamespace() {
		return nil, apierrors.NewBadRequest("a patch must not change metadata.name or metadata.namespace")
	}
	return next, nil
}

func apply(r *api.Resource, doc []byte, p api.Patch) ([]byte, error) {
	switch p.Type {
	case types.JSONPatchType:
		return applyJSON(r, doc, p.Data)
	case types.MergePatchType:
		if err := isObject(p.Data); err != nil {
			return nil, err
		}
		out, err := jsonpatch.MergePatch(doc, p.Data)
		if err != nil {
			return nil, malformed(err)
		}
		return out, nil
	case types.StrategicMergePatchType:
		if r.Definition != nil {
			return nil, status(codeUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType,
				fmt.Sprintf("the patch type %q is not supported for custom kinds; use %s or %s", p.Type, types.JSONPatchType, types.MergePatchType))
		}
		if err := isObject(p.Data); err != nil {
			return nil, err
		}
		return applyStrategic(r, doc, p.Data)
	default:
		return nil, status(codeUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType,
			fmt.Sprintf("the patch type %q is not supported; use %s, %s or %s", p.Type, types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType))
	}
}

// applyStrategic merges by the kind's merge keys. The library panics where a key is an
// object or a list, which cannot be compared: that is a fault of the patch too.
func applyStrategic(r *api.Resource, doc, data []byte) (out []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			out, err = nil, apierrors.NewBadRequest(fmt.Sprintf("the patch can't be merged into this %s: what names an item of a list has to be a string or a number (%v)", r.Kind, p))
		}
	}()
	out, err = strategicpatch.StrategicMergePatch(doc, data, r.New())
	if err != nil {
		return nil, malformed(err)
	}
	return out, nil
}

func applyJSON(r *api.Resource, doc, data []byte) ([]byte, error) {
	ops, err := jsonpatch.DecodePatch(data)
	if err != nil {
		return nil, malformed(err)
	}
	if len(ops) > MaxPatchOps {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("the patch has %d operations, at most %d are allowed", len(ops), MaxPatchOps))
	}
	o := jsonpatch.NewApplyOptions()
	o.AccumulatedCopySizeLimit = MaxPatchBytes
	o.SupportNegativeIndices = false
	out, err := ops.ApplyWithOptions(doc, o)
	if err != nil {
		return nil, status(codeInvalid, metav1.StatusReasonInvalid,
			fmt.Sprintf("the patch can't be applied to this %s: %v", r.Kind, err))
	}
	return out, nil
}

func isObject(data []byte) error {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(data, &m); err != nil || m == nil {
		return apierrors.NewBadRequest("the patch is not a JSON object")
	}
	return nil
}

func malformed(err error) error {
	return apierrors.NewBadRequest(fmt.Sprintf("the patch is malformed: %v", err))
}

func status(code int32, reason metav1.StatusReason, message string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message,
	}}
}
