package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// statusOf is err on the wire. Errors of the seam are Statuses already; every
// other one is a fault of ours.
func statusOf(err error) *metav1.Status {
	var known apierrors.APIStatus
	var tooLarge *http.MaxBytesError
	var st metav1.Status
	switch {
	case errors.As(err, &known):
		st = known.Status()
	case errors.As(err, &tooLarge):
		st = apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("the body may have at most %d bytes", tooLarge.Limit)).Status()
	case errors.Is(err, context.DeadlineExceeded):
		st = apierrors.NewTimeoutError("the store did not answer in time", 1).Status()
	default:
		st = apierrors.NewInternalError(err).Status()
	}
	st.Kind, st.APIVersion = "Status", "v1"
	if st.Status == "" {
		st.Status = metav1.StatusFailure
	}
	if st.Code == 0 {
		st.Code = http.StatusInternalServerError
	}
	return &st
}

// writeJSON answers with v, a value that always marshals.
func writeJSON(w http.ResponseWriter, code int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(append(b, '\n')) // the client has gone: nobody is left to tell
}

func unsupportedMedia(got string, supported []string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnsupportedMediaType, Reason: metav1.StatusReasonUnsupportedMediaType,
		Message: "the body of the request was in an unknown format - accepted media types include: " + list(supported) + "; got " + quoted(got),
	}}
}

func notAcceptable() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotAcceptable, Reason: metav1.StatusReasonNotAcceptable,
		Message: "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf, and application/json;as=Table;v=v1;g=meta.k8s.io",
	}}
}
