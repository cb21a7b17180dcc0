"""Azure Functions (Python v2 model): one HTTP function, and a timer that reaps every ten minutes.

It answers at /api and at /api/provision, /api/status and /api/reap. The token that `functions.faas` demands is the
lock, hence ANONYMOUS: a key of the platform's beside it adds nothing. An optional route parameter ends with a question
mark (learn.microsoft.com, "Azure Functions HTTP trigger"); a timer's schedule begins with the seconds. What a function
takes is named as its binding: `req`, unless the decorator says otherwise.
"""

import azure.functions as func

from functions import faas

app = func.FunctionApp()


@app.function_name("exollama")
@app.route(route="{action?}", methods=["GET", "HEAD", "POST"], auth_level=func.AuthLevel.ANONYMOUS)
def exollama(req: func.HttpRequest) -> func.HttpResponse:
    """Provision, status or reap over HTTP."""
    said = faas.azure(req)
    return func.HttpResponse(said.body, status_code=said.status, headers=said.headers)


@app.function_name("reap")
@app.timer_trigger(schedule="0 */10 * * * *", arg_name="timer")
def reap(timer: func.TimerRequest) -> None:
    """Reap on schedule; what fails is raised, so that the platform shows it."""
    faas.azure_timer(timer)
