// Package functions says what a function is: its defaults, what is valid, its
// scaling labels, and the pure plan from a Function to the Deployment and the
// Service that run it. Apply brings that plan into the store; the gateway calls
// it in a deploy and the function controller calls it to repair.
package functions
