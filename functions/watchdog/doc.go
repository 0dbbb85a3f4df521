// Command watchdog serves a function inside its container; see package host.
package main
